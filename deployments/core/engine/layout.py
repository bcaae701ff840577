"""How the texts of a pass are laid out: back to back, and for attention in blocks of equal length.

Texts of similar length share a group of blocks. A block is padded to a length that suits matrix units,
and holds several texts if they are very short: attention costs by the block, not by the token.
"""

# no postponed annotations here: TorchScript reads the types

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# on a CPU with matrix units, a block of 40 takes longer than one of 48 (benchmarks/log)
_STEP = 16
_SHORTEST_BLOCK = 32
# texts share a group down to this part of its block length
_SHORTEST_IN_GROUP = 0.75
_QUERIES_AT_ONCE = 512  # of an attention within windows

_Numbers = npt.NDArray[np.int64]


class Group(NamedTuple):
    """Neighbouring texts, tokens ``start`` to ``stop`` of the pass, in ``blocks`` of equal length.

    ``tokens`` is int64 ``(blocks × length,)``: the group's token at each place of the blocks;
    ``places`` is int64 ``(stop - start,)``: the place of each token. Both are None if the blocks are
    full. ``mask`` ``(blocks, 1, 1 or length, length)`` is added to the attention scores.
    """

    start: int
    stop: int
    blocks: int
    length: int
    tokens: Tensor | None = None
    places: Tensor | None = None
    mask: Tensor | None = None


class Window(NamedTuple):
    """Queries ``start`` to ``stop`` of each block, and the keys ``low`` to ``high`` that they may see.

    ``mask`` ``(1 or blocks, 1, stop - start, high - low)`` is added to the attention scores.
    """

    start: int
    stop: int
    low: int
    high: int
    mask: Tensor


class Places(Protocol):
    """The boundaries of a pass's texts, for attention kernels that take lengths."""

    @property
    def ends(self) -> Tensor:
        """Where each text ends: int32 ``(texts + 1,)``, starting with 0."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest text, or an upper bound."""
        ...


@dataclass(frozen=True)
class Layout:
    """The layout of a pass: the longest text first, back to back.

    ``dtype`` is that of the masks. A causal text has a block to itself: padding after it needs no mask.
    """

    lengths: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    causal: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return self.lengths[0]

    @cached_property
    def ends(self) -> Tensor:
        """Where each text ends: int32 ``(texts + 1,)``, starting with 0."""
        return to_device(np.array([0, *accumulate(self.lengths)], np.int32), self.device)

    @cached_property
    def counts(self) -> Tensor:
        """The tokens of each text: int64 ``(texts,)``."""
        return to_device(np.array(self.lengths, np.int64), self.device)

    @cached_property
    def groups(self) -> list[Group]:
        """The texts in blocks, for attention kernels that take no lengths."""
        return [self._group(start, lengths) for start, lengths in _similar(self.lengths)]

    def windows(self, number: int, back: int) -> list[Window]:
        """Returns the windows of a group in which a token sees those at most ``back`` away.

        All layers of a pass share them.
        """
        if (number, back) not in self._windows:
            self._windows[number, back] = [*self._windows_of(self.groups[number], back)]
        return self._windows[number, back]

    @cached_property
    def _windows(self) -> dict[tuple[int, int], list[Window]]:
        return {}

    def _windows_of(self, group: Group, back: int) -> Iterator[Window]:
        ahead = 0 if self.causal else back
        for start in range(0, group.length, _QUERIES_AT_ONCE):
            stop = min(start + _QUERIES_AT_ONCE, group.length)
            low, high = max(0, start - back), min(group.length, stop + ahead)
            queries, keys = np.arange(start, stop)[:, None], np.arange(low, high)
            seen = torch.from_numpy((keys >= queries - back) & (keys <= queries + ahead))
            mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(~seen, -torch.inf)
            mask = mask.to(self.device)[None, None]
            if group.mask is not None:
                rows = group.mask if group.mask.size(2) == 1 else group.mask[:, :, start:stop]
                mask = mask + rows[:, :, :, low:high]
            yield Window(start, stop, low, high, mask)

    def _group(self, start: int, lengths: Sequence[int]) -> Group:
        longest, texts, stop = lengths[0], len(lengths), start + sum(lengths)
        if texts == 1 and longest <= _SHORTEST_BLOCK:
            return Group(start, stop, 1, longest)
        length = longest_block(longest)
        in_a_block = 1 if self.causal else length // longest
        blocks = -(-texts // in_a_block)
        if stop - start == texts * length:
            return Group(start, stop, blocks, length)
        text, places = _places(lengths, length, in_a_block)
        tokens = np.zeros(blocks * length, np.int64)
        tokens[places] = np.arange(len(places))
        owner = np.full((blocks, length), -1)
        owner.flat[places] = text
        mask = None if self.causal else _mask(owner, in_a_block, self.dtype).to(self.device)
        both = to_device(tokens, self.device), to_device(places, self.device)
        return Group(start, stop, blocks, length, *both, mask)


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Returns the array on the device; a GPU copies it while it computes."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _similar(lengths: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    """Splits texts, longest first, where the next one is too short for the first one's block."""
    first = start = 0
    for row in range(1, len(lengths) + 1):
        least = _SHORTEST_IN_GROUP * _rounded(lengths[first])
        if row == len(lengths) or _rounded(lengths[row]) < least:
            group = lengths[first:row]
            yield start, group
            first, start = row, start + sum(group)


def longest_block(tokens: int) -> int:
    """Returns the length of the longest block that texts of up to so many tokens get."""
    return max(_SHORTEST_BLOCK, _rounded(tokens))


def _rounded(length: int) -> int:
    return -(-length // _STEP) * _STEP


def _places(lengths: Sequence[int], length: int, in_a_block: int) -> tuple[_Numbers, _Numbers]:
    """Returns for each token its text, and its place among all blocks."""
    number = np.arange(len(lengths))
    starts = number // in_a_block * length + number % in_a_block * lengths[0]
    text = np.repeat(number, lengths)
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    return text, starts[text] + within


def _mask(owner: _Numbers, in_a_block: int, dtype: torch.dtype) -> Tensor:
    """Masks the keys of other texts at each place; ``owner`` is the text at each place, or -1."""
    seen = owner[:, None, None, :] >= 0
    if (
        in_a_block > 1
    ):  # places without a text attend to each other: a row without any key becomes NaN
        seen = owner[:, None, :, None] == owner[:, None, None, :]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~torch.from_numpy(seen), -torch.inf)
