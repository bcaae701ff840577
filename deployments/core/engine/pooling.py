"""From token vectors to text vectors, in float32 whatever the precision of the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deployments.core.models.spec import Pooling


def mean(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Averages the tokens of each text.

    ``hidden`` is ``(tokens, dimension)``, ``lengths`` int64 ``(texts,)``; returns float32
    ``(texts, dimension)``.
    """
    # unsafe=True skips a check of the lengths, for which the GPU would have to be synchronised
    return torch.segment_reduce(hidden.to(torch.float32), "mean", lengths=lengths, unsafe=True)


def last_token(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Takes each text's last token; shapes as in `mean`."""
    return hidden[lengths.cumsum(0) - 1].to(torch.float32)


def cls(hidden: Tensor, lengths: Tensor) -> Tensor:
    """Takes each text's first token; shapes as in `mean`."""
    return hidden[lengths.cumsum(0) - lengths].to(torch.float32)


POOLERS: dict[Pooling, Callable[[Tensor, Tensor], Tensor]] = {
    Pooling.MEAN: mean,
    Pooling.LAST_TOKEN: last_token,
    Pooling.CLS: cls,
}
