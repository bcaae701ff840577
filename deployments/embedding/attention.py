"""Attention over texts that stand one behind the other, without padding between them.

A pass without padding spends nothing on it in the linear layers, where nearly all the work is, and
lets short and long texts share a pass at the price of their tokens. transformers calls `attend`
in each layer, by the name `FLAT`; it knows no mask function of that name and so makes no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from deployments.embedding.layout import Group, Layout

FLAT = "embedfleet_flat"

# models whose attention we know, and whether their positions count from the padding id on
COUNTS_FROM_PADDING = {
    "bert": False,
    "mistral": False,
    "xlm-roberta": True,
    "roberta": True,
    "camembert": True,
}
CAUSAL = frozenset({"mistral"})


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
    states = [s.transpose(1, 2)[0] for s in (query, key, value)]
    causal = bool(getattr(module, "is_causal", False))
    back = sliding_window - 1 if sliding_window and sliding_window < layout.longest else -1
    rule = Rule(causal, back, scaling)
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        attended = _fused(states, layout, rule)
    else:
        attended = attend_in_blocks(torch.cat(states, dim=1), key.shape[1], layout, rule)
    return attended.unsqueeze(0), None


AttentionInterface.register(FLAT, attend)


@dataclass(frozen=True)
class Rule:
    """What a token looks at: if ``causal`` only at tokens before it, at most ``back`` of them unless
    that is -1. ``scale`` multiplies the scores; None stands for the usual one.
    """

    causal: bool = False
    back: int = -1
    scale: float | None = None


_BOTH_WAYS = Rule()


def attend_in_blocks(
    states: Tensor, key_heads: int, layout: Layout, rule: Rule = _BOTH_WAYS
) -> Tensor:
    """Returns ``(tokens, query heads, width)``, with zeros for tokens behind the last text.

    ``states`` ``(tokens, heads, width)`` are query, key and value side by side. Several query heads
    may share one of the ``key_heads`` (grouped-query attention).
    """
    heads = (states.shape[1] - 2 * key_heads, key_heads, key_heads)
    found = states.new_empty(len(states), heads[0], states.shape[2])
    for group in layout.groups:
        group.gather(_in_blocks(states, heads, group, rule), found)
    found[layout.groups[-1].stop :] = 0
    return found


def _in_blocks(states: Tensor, heads: tuple[int, int, int], group: Group, rule: Rule) -> Tensor:
    query, key, value = torch.split_with_sizes(group.spread(states), heads, dim=1)
    slides = rule.causal and rule.back >= 0
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=_sliding(group.length, rule.back, states.device) if slides else group.mask,
        is_causal=rule.causal and not slides,
        scale=rule.scale,
        enable_gqa=heads[0] != heads[1],
    )


def _sliding(length: int, back: int, device: torch.device) -> Tensor:
    seen = torch.ones(length, length, dtype=torch.bool, device=device)
    return seen.tril().triu(-back)


def _fused(states: list[Tensor], layout: Layout, rule: Rule) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = states
    found = varlen_attn(
        query,
        key,
        value,
        layout.ends,
        layout.ends,
        layout.longest,
        layout.longest,
        scale=rule.scale,
        window_size=(rule.back, 0) if rule.causal else (-1, -1),
        # several query heads share a key head
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(found, Tensor)
    return found
