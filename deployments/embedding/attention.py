"""Attention over texts that stand one behind the other, without padding between them.

A pass without padding spends nothing on it in the linear layers, where nearly all the work is, and
lets short and long texts share a pass at the price of their tokens. transformers calls `attend`
in each layer, by the name `FLAT`; it knows no mask function of that name and so makes no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

FLAT = "embedfleet_flat"

# models whose attention we know, and whether their positions count from the padding id on
COUNTS_FROM_PADDING = {
    "bert": False,
    "mistral": False,
    "xlm-roberta": True,
    "roberta": True,
    "camembert": True,
}
# texts share a group, padded inside attention alone, down to this part of the longest's length
_SHORTEST_IN_GROUP = 0.6


@dataclass(frozen=True)
class Group:
    """Neighbouring texts of like length: tokens ``start`` to ``stop`` of the pass.

    ``real`` is bool ``(texts, longest)``, True where a token stands; None when all are as long.
    """

    start: int
    stop: int
    texts: int
    longest: int
    real: Tensor | None

    def spread(self, flat: Tensor) -> Tensor:
        """Returns ``(tokens, heads, width)`` as ``(texts, heads, longest, width)``."""
        own = flat[self.start : self.stop]
        if self.real is not None:
            padded = own.new_zeros(self.texts, self.longest, *own.shape[1:])
            padded[self.real] = own
            own = padded
        return own.view(self.texts, self.longest, *flat.shape[1:]).transpose(1, 2)

    def gather(self, attended: Tensor) -> Tensor:
        """Returns ``(texts, heads, longest, width)`` as ``(tokens, heads, width)``."""
        back = attended.transpose(1, 2)
        return back[self.real] if self.real is not None else back.flatten(0, 1)


@dataclass(frozen=True)
class Layout:
    """Where each text of a pass stands. ``ends`` is int32 ``(texts + 1,)``, starting with 0."""

    ends: Tensor
    longest: int
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Layout:
        """Lays out texts of these lengths, longest first."""
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(ends, max(lengths), tuple(_groups(lengths, device)))


def attend(  # noqa: PLR0913, PLR0917  # transformers sets the signature
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    layout: Layout,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends within each text; a causal token looks at the last ``sliding_window`` tokens.

    Query, key and value are ``(1, heads, tokens, width)``; returns ``(1, tokens, heads, width)``, as
    transformers' attention functions do.
    """
    del attention_mask, kwargs
    states = _States(*(s.transpose(1, 2)[0] for s in (query, key, value)))
    causal = bool(getattr(module, "is_causal", False))
    back = sliding_window - 1 if sliding_window and sliding_window < layout.longest else -1
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        attended = _fused(states, layout, causal, scaling, back)
    else:
        attended = torch.cat([_grouped(states, g, causal, scaling, back) for g in layout.groups])
    return attended.unsqueeze(0), None


AttentionInterface.register(FLAT, attend)


class _States(NamedTuple):
    """Query, key and value of all tokens, each ``(tokens, heads, width)``."""

    query: Tensor
    key: Tensor
    value: Tensor

    @property
    def shares_keys(self) -> bool:
        """Whether several query heads share a key head (grouped-query attention)."""
        return self.query.shape[1] != self.key.shape[1]


def _fused(states: _States, layout: Layout, causal: bool, scale: float | None, back: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    found = varlen_attn(
        *states,
        layout.ends,
        layout.ends,
        layout.longest,
        layout.longest,
        scale=scale,
        window_size=(back, 0) if causal else (-1, -1),
        enable_gqa=states.shares_keys,
    )
    assert isinstance(found, Tensor)
    return found


def _grouped(states: _States, group: Group, causal: bool, scale: float | None, back: int) -> Tensor:
    # padding stands behind each text, where a causal text does not look anyway
    mask = None if causal or group.real is None else group.real[:, None, None, :]
    slides = causal and back >= 0
    if slides:
        seen = torch.ones(
            group.longest, group.longest, dtype=torch.bool, device=states.query.device
        )
        mask = seen.tril().triu(-back)
    query, key, value = map(group.spread, states)
    attended = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal and not slides,
        scale=scale,
        enable_gqa=states.shares_keys,
    )
    return group.gather(attended)


def _groups(lengths: Sequence[int], device: torch.device) -> list[Group]:
    groups, first, start = [], 0, 0
    for row in range(1, len(lengths) + 1):
        if row < len(lengths) and lengths[row] >= _SHORTEST_IN_GROUP * lengths[first]:
            continue
        own = lengths[first:row]
        groups.append(_group(start, own, device))
        first, start = row, start + sum(own)
    return groups


def _group(start: int, lengths: Sequence[int], device: torch.device) -> Group:
    longest = lengths[0]
    real = None
    if lengths[-1] < longest:
        real = torch.arange(longest) < torch.tensor(lengths)[:, None]
        real = real.to(device)
    return Group(start, start + sum(lengths), len(lengths), longest, real)
