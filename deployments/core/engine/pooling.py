"""From token vectors to text vectors, in float32 whatever the precision of the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deployments.core.models.spec import Pooling


def mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Averages the real tokens.

    ``hidden`` is ``(texts, tokens, dimension)``, ``mask`` bool ``(texts, tokens)``; returns float32
    ``(texts, dimension)``. Padding may be on either side.
    """
    weights = mask.to(torch.float32) / mask.sum(dim=1, keepdim=True)
    return torch.bmm(weights.unsqueeze(1), hidden.to(torch.float32)).squeeze(1)


def last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    """Takes the last real token's vector; shapes as in `mean`."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).argmax(dim=1)
    return hidden[torch.arange(len(last), device=mask.device), last].to(torch.float32)


def cls(hidden: Tensor, mask: Tensor) -> Tensor:
    """Takes the first real token's vector; shapes as in `mean`."""
    first = mask.to(torch.int32).argmax(dim=1)
    return hidden[torch.arange(len(first), device=mask.device), first].to(torch.float32)


def flat_mean(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Averages each text of a pass without padding.

    ``hidden`` is ``(tokens, dimension)``, ``lengths`` int64 ``(texts,)``; returns float32
    ``(texts, dimension)``.
    """
    # unsafe=True skips a check of the lengths, for which the GPU would have to be synchronised
    return torch.segment_reduce(hidden.to(torch.float32), "mean", lengths=lengths, unsafe=True)


def flat_last_token(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Takes each text's last token; shapes as in `flat_mean`."""
    return hidden[lengths.cumsum(0) - 1].to(torch.float32)


def flat_cls(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Takes each text's first token; shapes as in `flat_mean`."""
    return hidden[lengths.cumsum(0) - lengths].to(torch.float32)


POOLERS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    Pooling.MEAN: mean,
    Pooling.LAST_TOKEN: last_token,
    Pooling.CLS: cls,
}

FLAT_POOLERS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    Pooling.MEAN: flat_mean,
    Pooling.LAST_TOKEN: flat_last_token,
    Pooling.CLS: flat_cls,
}
