"""Divides long texts into overlapping chunks, between words where possible."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deployments.core.models.reading import Spans

Words = Sequence[int] | npt.NDArray[np.int64]


def chunk_spans(tokens: Spans, size: int, overlap: int) -> list[tuple[int, int]]:
    """Returns the ``(start, stop)`` characters of a text's chunks, from its tokens."""
    if not len(tokens.words):
        return []
    ranges = token_ranges(tokens.words, size, overlap)
    return [(int(tokens.offsets[i, 0]), int(tokens.offsets[j - 1, 1])) for i, j in ranges]


def token_ranges(words: Words, size: int, overlap: int) -> list[tuple[int, int]]:
    """Returns ``(start, stop)`` token ranges of at most ``size`` tokens that cover a text.

    ``words[i]`` is the number of the word that token ``i`` belongs to. Neighbours share at most
    ``overlap`` tokens, and fewer if a word would be split.
    """
    ranges: list[tuple[int, int]] = []
    start, done = 0, 0
    while True:
        stop = _stop(words, start, size)
        if stop <= done:  # the next word does not fit after the overlap
            start, stop = done, _stop(words, done, size)
        ranges.append((start, stop))
        if stop == len(words):
            return ranges
        done = stop
        start = _next_word(words, max(stop - overlap, start + 1), limit=stop)


def _stop(words: Words, start: int, size: int) -> int:
    stop = min(start + size, len(words))
    return stop if stop == len(words) else _word_start(words, stop, above=start)


def _word_start(words: Words, token: int, above: int) -> int:
    """The last start of a word at or before ``token``; ``token`` if one word fills the range."""
    at = token
    while at > above + 1 and words[at] == words[at - 1]:
        at -= 1
    return at if words[at] != words[at - 1] else token


def _next_word(words: Words, token: int, limit: int) -> int:
    at = token
    while at < limit and words[at] == words[at - 1]:
        at += 1
    return at
