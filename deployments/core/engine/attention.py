"""Attention over texts laid out back to back, without padding between them.

Without padding the linear layers, which do nearly all the work, compute real tokens only, so short and
long texts share a pass at the cost of their tokens. transformers calls `attend` in each layer under
the name `FLAT`; it has no mask function of that name and so makes no mask.
"""

# no postponed annotations here: TorchScript reads the types

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, PreTrainedConfig

from deployments.core.engine.layout import Group, Layout, Places

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
    attended = attend_in_blocks(torch.cat(states, dim=1), key.shape[1], layout.groups, rule)
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
    only tokens at most ``back`` away.

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
    heads = [states.size(1) - 2 * key_heads, key_heads, key_heads]
    output = states.new_empty([states.size(0), heads[0], states.size(2)])
    for group in groups:
        attended = _in_blocks(_spread(states, group), heads, group, rule)
        _gather(attended, group, output)
    output[groups[-1].stop :] = 0
    return output


def _spread(flat: Tensor, group: Group) -> Tensor:
    """Returns ``(tokens, heads, width)`` as ``(blocks, heads, length, width)``."""
    rows, tokens = flat[group.start : group.stop], group.tokens
    if tokens is not None:
        rows = rows.index_select(0, tokens)
    return rows.view(group.blocks, group.length, flat.size(1), flat.size(2)).transpose(1, 2)


def _in_blocks(states: Tensor, heads: list[int], group: Group, rule: Rule) -> Tensor:
    query, key, value = torch.split_with_sizes(states, heads, dim=1)
    if 0 <= rule.back < group.length:
        return _in_windows(query, key, value, group, rule)
    mask, bias = group.mask, rule.bias
    if bias is not None:
        own = bias[:, :, : group.length, : group.length]
        mask = own if mask is None else own + mask
    return _attended(query, key, value, mask, rule)


def _in_windows(query: Tensor, key: Tensor, value: Tensor, group: Group, rule: Rule) -> Tensor:
    """Attends chunk by chunk of the queries: each needs only the keys around it, and a short mask."""
    length, ahead, parts = group.length, 0 if rule.causal else rule.back, [query[:, :, :0]]
    chunk = 512  # a local: TorchScript sees no constants of the module
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        low, high = max(0, start - rule.back), min(length, stop + ahead)
        queries = torch.arange(start, stop, device=query.device)[:, None]
        keys = torch.arange(low, high, device=query.device)[None, :]
        out_of_reach = (keys < queries - rule.back) | (keys > queries + ahead)
        mask = query.new_zeros(out_of_reach.shape).masked_fill_(out_of_reach, -float("inf"))
        of_group = group.mask
        if of_group is not None:
            rows = of_group if of_group.size(2) == 1 else of_group[:, :, start:stop]
            mask = mask + rows[:, :, :, low:high]
        near = key[:, :, low:high], value[:, :, low:high]
        parts.append(_attended(query[:, :, start:stop], near[0], near[1], mask, rule))
    return torch.cat(parts, dim=2)


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
