"""How much of a text is tokenized, so that time and memory follow the model's limit and not the text.

A tokenizer needs hundreds of bytes of memory for each byte of a text. A text that is much longer than
the model's limit is therefore read in windows, which grow until one holds more tokens than the model
takes: from its beginning, or from its end if the model keeps that. Texts are tokenized in slices of a
bounded size, so that others get their turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.core.batch import Ids
from deployments.core.batching.packing import split_in_order

# The last tokens of a window may differ from those of the whole text, since a word is cut there: of a
# word of 100 characters WordPiece makes one unknown token, but up to 99 tokens of its beginning.
_UNSURE_TOKENS = 256
_CHARACTERS_PER_TOKEN = 8  # few texts have more, so the first window is mostly enough
_GROWTH = 4
_WINDOWS = 4
_ALIGNMENT = 64  # repetitions merge by powers of two, counted from the beginning of the text
_SLICE_CHARACTERS = 65_536  # a few tens of milliseconds, and of megabytes
_SEGMENT_CHARACTERS = 16_384  # of a long text, several of which are tokenized side by side

Slices = Generator[list[str], list[Ids], "Contents"]


@dataclass(frozen=True)
class Contents:
    """The token ids of some texts, without special tokens.

    Of the texts in ``partial`` only a part was read. The ids that the model takes are those of the whole
    text; the others may not be.
    """

    ids: Sequence[Sequence[int] | Ids]
    partial: frozenset[int] = frozenset()

    def at_least(self, row: int) -> int:
        """Returns the number of a text's tokens, or a lower bound of it if it was read in part."""
        count: int = len(self.ids[row])
        return max(0, count - _UNSURE_TOKENS) if row in self.partial else count


def most_characters(room: int) -> int:
    """Returns how many characters of a text are read for a model that takes ``room`` tokens."""
    growth: int = _GROWTH ** (_WINDOWS - 1)
    return _first_window(room) * growth


def read(texts: Sequence[str], room: int, keeps_end: bool = False) -> Slices:
    """Yields slices of ``texts`` to be tokenized, takes their ids, and returns the contents.

    Each text is read whole, or until more than ``room`` tokens are certain: the first ones, or the last
    ones if the model ``keeps_end``. A text that has fewer in `most_characters` is read no further and is
    ``partial``.
    """
    window = _first_window(room)
    ids = yield from _in_slices([_part(text, window, keeps_end) for text in texts])
    partial = {row for row, text in enumerate(texts) if len(text) > window}
    for _ in range(_WINDOWS - 1):
        short = [row for row in sorted(partial) if len(ids[row]) <= room + _UNSURE_TOKENS]
        if not short:
            break
        window *= _GROWTH
        longer = yield from _in_slices([_part(texts[row], window, keeps_end) for row in short])
        for row, content in zip(short, longer, strict=True):
            ids[row] = content
        partial -= {row for row in short if len(texts[row]) <= window}
    return Contents(ids, frozenset(partial))


def read_whole(texts: Sequence[str]) -> Slices:
    """Yields slices of ``texts`` as `read`, and returns all of their ids, however many there are.

    Long texts are tokenized in segments, which end between words where that is possible.
    """
    segments = [(row, start, stop) for row, t in enumerate(texts) for start, stop in _segments(t)]
    ids = yield from _in_slices([texts[row][start:stop] for row, start, stop in segments])
    parts: list[list[Ids]] = [[] for _ in texts]
    for (row, _, _), part in zip(segments, ids, strict=True):
        parts[row].append(part)
    return Contents([part[0] if len(part) == 1 else np.concatenate(part) for part in parts])


def run(slices: Slices, encode: Callable[[list[str]], list[Ids]]) -> Contents:
    """Returns the contents of the texts that ``slices`` reads, tokenized by ``encode``."""
    try:
        part = next(slices)
        while True:
            part = slices.send(encode(part))
    except StopIteration as end:
        contents: Contents = end.value
        return contents


async def run_async(
    slices: Slices, encode: Callable[[list[str]], Awaitable[list[Ids]]]
) -> Contents:
    """Returns what `run` returns; ``encode`` is awaited for each slice."""
    try:
        part = next(slices)
        while True:
            part = slices.send(await encode(part))
    except StopIteration as end:
        contents: Contents = end.value
        return contents


def _first_window(room: int) -> int:
    return _CHARACTERS_PER_TOKEN * (room + _UNSURE_TOKENS)


def _part(text: str, window: int, is_end: bool) -> str:
    if not is_end or len(text) <= window:
        return text[:window]
    return text[(len(text) - window) // _ALIGNMENT * _ALIGNMENT :]


def _in_slices(texts: list[str]) -> Generator[list[str], list[Ids], list[Ids]]:
    ids: list[Ids] = []
    for start, stop in split_in_order([*map(len, texts)], _SLICE_CHARACTERS, len(texts) or 1):
        ids += yield texts[start:stop]
    return ids


@dataclass(frozen=True)
class Spans:
    """The tokens of one text, which has no limit here.

    ``offsets`` is int64 ``(tokens, 2)``: the start and the end of each token in characters. ``words`` is
    int64 ``(tokens,)``: the number of the word that it belongs to.
    """

    offsets: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]

    @classmethod
    def of(cls, offsets: Sequence[tuple[int, int]], words: Sequence[int | None]) -> Spans:
        """Builds them from a tokenizer's own lists."""
        numbers = [-1 if word is None else word for word in words]
        return cls(np.array(offsets, np.int64).reshape(-1, 2), np.array(numbers, np.int64))

    def moved(self, characters: int, words: int) -> Spans:
        """Returns the spans of the same text behind so many characters and words."""
        return Spans(self.offsets + characters, self.words + words)


def spans(texts: Sequence[str], locate: Callable[[list[str]], list[Spans]]) -> list[Spans]:
    """Returns where the tokens of whole texts are; ``locate`` tokenizes one slice of them.

    Long texts are tokenized in segments, which end between words where that is possible.
    """
    segments = [(row, start, stop) for row, t in enumerate(texts) for start, stop in _segments(t)]
    parts: list[list[Spans]] = [[] for _ in texts]
    lengths = [stop - start for _, start, stop in segments]
    for first, last in split_in_order(lengths, _SLICE_CHARACTERS, len(segments) or 1):
        some = segments[first:last]
        located = locate([texts[row][start:stop] for row, start, stop in some])
        for (row, start, _), part in zip(some, located, strict=True):
            parts[row].append(part.moved(start, _words_in(parts[row])))
    return [_concatenated(part) for part in parts]


def _words_in(parts: Sequence[Spans]) -> int:
    return next((int(part.words[-1]) + 1 for part in reversed(parts) if len(part.words)), 0)


def _segments(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    while len(text) - start > _SEGMENT_CHARACTERS:
        stop, least = start + _SEGMENT_CHARACTERS, start + _SEGMENT_CHARACTERS // 2
        gap = max(text.rfind(" ", least, stop), text.rfind("\n", least, stop))
        yield start, gap if gap > 0 else stop
        start = gap if gap > 0 else stop
    yield start, len(text)


def _concatenated(parts: Sequence[Spans]) -> Spans:
    if len(parts) == 1:
        return parts[0]
    return Spans(
        np.concatenate([p.offsets for p in parts]), np.concatenate([p.words for p in parts])
    )
