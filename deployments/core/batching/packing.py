"""Pure choices under a token budget: which texts share a forward pass, and how to cut a call."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol, TypeVar


class Sized(Protocol):
    """A queued text with its token count."""

    @property
    def tokens(self) -> int:
        """Number of tokens, special tokens included."""
        ...


SizedT = TypeVar("SizedT", bound=Sized)


def split_in_order(
    lengths: Sequence[int], max_tokens: int, max_texts: int
) -> list[tuple[int, int]]:
    """Returns consecutive ``(start, stop)`` ranges, each within both limits or one text long."""
    cuts, tokens = [0], 0
    for row, length in enumerate(lengths):
        if row > cuts[-1] and (tokens + length > max_tokens or row - cuts[-1] >= max_texts):
            cuts.append(row)
            tokens = 0
        tokens += length
    return list(pairwise([*cuts, len(lengths)]))


def around_oldest(texts: Sequence[SizedT], token_budget: int) -> list[SizedT]:
    """Returns the oldest text and those nearest to it in length, longest first.

    Always including the oldest keeps any text from waiting forever; like lengths keep padding small.
    ``texts`` are in order of arrival. The cost longest × rows stays within ``token_budget`` unless
    the oldest text alone exceeds it.
    """
    if not texts:
        return []
    by_length = sorted(texts, key=lambda text: -text.tokens)
    start = next(i for i, text in enumerate(by_length) if text is texts[0])
    stop = start + 1
    while True:
        rows = stop - start + 1
        fits_shorter = stop < len(by_length) and by_length[start].tokens * rows <= token_budget
        fits_longer = start > 0 and by_length[start - 1].tokens * rows <= token_budget
        if fits_longer and (not fits_shorter or _longer_is_nearer(by_length, start, stop)):
            start -= 1
        elif fits_shorter:
            stop += 1
        else:
            return by_length[start:stop]


def _longer_is_nearer(by_length: Sequence[SizedT], start: int, stop: int) -> bool:
    longer = by_length[start - 1].tokens - by_length[start].tokens
    return longer <= by_length[stop - 1].tokens - by_length[stop].tokens


def first_fit(
    chosen: Sequence[SizedT],
    others: Sequence[SizedT],
    budget: int,
    pads: bool,
) -> list[SizedT]:
    """Returns ``chosen`` plus, in order of arrival, each of ``others`` that still fits the budget."""
    filled = list(chosen)
    longest = max((text.tokens for text in filled), default=0)
    tokens = sum(text.tokens for text in filled)
    for text in others:
        longer = max(longest, text.tokens)
        cost = longer * (len(filled) + 1) if pads else tokens + text.tokens
        if cost <= budget:
            filled.append(text)
            longest, tokens = longer, tokens + text.tokens
    return filled
