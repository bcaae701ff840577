"""Which texts share a forward pass: micro-batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def pack(lengths: Sequence[int], token_budget: int, pads: bool = True) -> list[list[int]]:
    """Returns row numbers grouped into micro-batches, longest texts first.

    Texts of like length share a micro-batch, so little is spent on padding. None costs more than
    ``token_budget``, unless one text alone does: longest × rows where the engine ``pads``, else the
    sum of its tokens.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    batches: list[list[int]] = []
    cost = 0
    for row in order:
        # longest first: where the engine pads, the first row sets the price of each further one
        price = lengths[batches[-1][0]] if pads and batches else lengths[row]
        if batches and cost + price <= token_budget:
            batches[-1].append(row)
            cost += price
        else:
            batches.append([row])
            cost = lengths[row]
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
