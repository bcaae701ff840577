"""Which texts share a forward pass: micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def padded_tokens(lengths: Sequence[int]) -> int:
    """Returns what a forward pass over these texts costs: longest × rows."""
    return max(lengths, default=0) * len(lengths)


def pack(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Returns row numbers grouped into micro-batches, longest texts first.

    Texts of like length share a micro-batch, so little is spent on padding. No micro-batch costs
    more than ``token_budget`` padded tokens, unless one text alone does.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches: list[list[int]] = []
    for row in order:
        # longest first: the micro-batch's first row sets the price of each further one
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def split_in_order(
    lengths: Sequence[int], max_tokens: int, max_texts: int
) -> list[tuple[int, int]]:
    """Returns consecutive ``(start, stop)`` ranges, each within both bounds (or one text long)."""
    cuts, tokens = [0], 0
    for row, length in enumerate(lengths):
        if row > cuts[-1] and (tokens + length > max_tokens or row - cuts[-1] >= max_texts):
            cuts.append(row)
            tokens = 0
        tokens += length
    return list(pairwise([*cuts, len(lengths)]))
