"""Attention over texts laid out back to back, without padding between them.

Without padding the linear layers, which do nearly all the work, compute real tokens only, so short and
long texts share a pass at the cost of their tokens. transformers calls `attend` in each layer under
the name `FLAT`; it has no mask function of that name and so makes no mask.
"""

# no postponed annotations here: TorchScript reads the types

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig

from deployments.core.engine.layout import Group, Layout, Places, Window

FLAT = "embedfleet_flat"


def attend(  # noqa: PLR0913, PLR0917  # transformers sets the signature
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    *,
    layout: Places,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends within each text, and in layers with a window to the tokens that are nearer than
    ``sliding_window``. ``is_causal`` overrides the module's own direction.

    Query, key and value are ``(1, heads, tokens, width)``; returns ``(1, tokens, heads, width)``, as
    transformers' attention functions do.
    """
    del attention_mask, kwargs
    states = [s.transpose(1, 2)[0] for s in (query, key, value)]
    causal = bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal
    back = sliding_window - 1 if sliding_window and sliding_window < layout.longest else -1
    rule = Rule(causal, back, scaling)
    if can_fuse(query.device, query.dtype, query.shape[-1]):
        return _fused(states, layout, rule).unsqueeze(0), None
    assert isinstance(layout, Layout)
    together, key_heads = torch.cat(states, dim=1), key.shape[1]
    if back < 0:
        attended = attend_in_blocks(together, key_heads, layout.groups, rule)
    else:
        attended = attend_in_windows(together, key_heads, layout, rule)
    return attended.unsqueeze(0), None


AttentionInterface.register(FLAT, attend)


def can_fuse(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether a fused kernel can attend within each text; it reads only the `Places` of a layout.

    ``width`` is that of a head. The limits are those of torch's FlashAttention 2 kernel.
    """
    fits = dtype in (torch.bfloat16, torch.float16) and width % 8 == 0 and width <= 256
    return device.type == "cuda" and fits and _capability(device) >= (8, 0)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def head_width(config: PreTrainedConfig) -> int:
    """Returns the width of a model's attention heads."""
    head_dim = getattr(config, "head_dim", None)
    return int(head_dim or config.hidden_size // config.num_attention_heads)


class Rule(NamedTuple):
    """What a token attends to: if ``causal``, only itself and tokens before it; if ``back`` is not -1,
    only tokens at most ``back`` away (`attend_in_windows`).

    ``scale`` multiplies the scores; None means 1 / sqrt(width). ``bias`` ``(1, heads, length, length)``
    is added to them by position in a block, of which it covers the longest.
    """

    causal: bool = False
    back: int = -1
    scale: float | None = None
    bias: Tensor | None = None


def attend_in_blocks(states: Tensor, key_heads: int, groups: list[Group], rule: Rule) -> Tensor:
    """Returns ``(tokens, query heads, width)``, with zeros for rows after the last text.

    ``states`` ``(tokens, heads, width)`` holds query, key and value side by side. Several query heads
    may share one of the ``key_heads`` (grouped-query attention). TorchScript compiles this function.
    """
    output = states.new_empty([states.size(0), states.size(1) - 2 * key_heads, states.size(2)])
    for group in groups:
        query, key, value = _split(_spread(states, group), key_heads)
        _gather(_in_blocks(query, key, value, group, rule), group, output)
    output[groups[-1].stop :] = 0
    return output


def attend_in_windows(states: Tensor, key_heads: int, layout: Layout, rule: Rule) -> Tensor:
    """Does the same where ``rule.back`` limits what a token attends to."""
    output = states.new_empty([states.size(0), states.size(1) - 2 * key_heads, states.size(2)])
    for number, group in enumerate(layout.groups):
        query, key, value = _split(_spread(states, group), key_heads)
        if rule.back < group.length:
            attended = _in_windows(query, key, value, layout.windows(number, rule.back), rule)
        else:
            attended = _in_blocks(query, key, value, group, rule)
        _gather(attended, group, output)
    output[layout.groups[-1].stop :] = 0
    return output


def _spread(flat: Tensor, group: Group) -> Tensor:
    """Returns ``(tokens, heads, width)`` as ``(blocks, heads, length, width)``."""
    rows, tokens = flat[group.start : group.stop], group.tokens
    if tokens is not None:
        rows = rows.index_select(0, tokens)
    return rows.view(group.blocks, group.length, flat.size(1), flat.size(2)).transpose(1, 2)


def _split(states: Tensor, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns query, key and value."""
    query_heads = states.size(1) - 2 * key_heads
    query, key, value = torch.split_with_sizes(states, [query_heads, key_heads, key_heads], dim=1)
    return query, key, value


def _in_blocks(query: Tensor, key: Tensor, value: Tensor, group: Group, rule: Rule) -> Tensor:
    mask, bias = group.mask, rule.bias
    if bias is not None:
        own = bias[:, :, : group.length, : group.length]
        mask = own if mask is None else own + mask
    return _attended(query, key, value, mask, rule)


def _in_windows(
    query: Tensor, key: Tensor, value: Tensor, windows: Sequence[Window], rule: Rule
) -> Tensor:
    """Attends chunk by chunk of the queries: each needs only the keys around it, and a short mask."""
    parts = []
    for start, stop, low, high, mask in windows:
        near = key[:, :, low:high], value[:, :, low:high]
        parts.append(_attended(query[:, :, start:stop], near[0], near[1], mask, rule))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rule: Rule) -> Tensor:
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=rule.causal and mask is None,
        scale=rule.scale,
        enable_gqa=query.size(1) != key.size(1),
    )


def _gather(attended: Tensor, group: Group, into: Tensor) -> None:
    """Writes ``(blocks, heads, length, width)`` to its tokens of ``into`` ``(tokens, heads, width)``."""
    rows, target = attended.transpose(1, 2).flatten(0, 1), into[group.start : group.stop]
    places = group.places
    if places is None:
        target.copy_(rows)
    else:
        torch.index_select(rows, 0, places, out=target)


def _fused(states: list[Tensor], places: Places, rule: Rule) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = states
    attended = varlen_attn(
        query,
        key,
        value,
        places.ends,
        places.ends,
        places.longest,
        places.longest,
        scale=rule.scale,
        window_size=(rule.back, 0 if rule.causal else rule.back),
        # several query heads share a key head
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)
    return attended
