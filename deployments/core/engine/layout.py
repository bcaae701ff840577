"""Where the texts of a pass stand: one behind the other, and for attention in blocks of one length.

Texts of like length share a group of blocks. A block is padded to a length that matrix units like,
and holds several texts where they are very short: attention costs by the block, not by the token.
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

# measured on a CPU with matrix units: a block of 40 takes longer than one of 48 (benchmarks/log)
_STEP = 16
_SHORTEST_BLOCK = 32
# texts share a group down to this part of its block length
_SHORTEST_IN_GROUP = 0.75

_Numbers = npt.NDArray[np.int64]


class Group(NamedTuple):
    """Neighbouring texts, tokens ``start`` to ``stop`` of the pass, in ``blocks`` of one length.

    ``tokens`` is int64 ``(blocks × length,)``: which of the group's tokens stands at each place;
    ``places`` is int64 ``(stop - start,)``: where each token stands. Both are None where the blocks
    are full. ``mask`` is added to the scores: ``(blocks, 1, 1 or length, length)``.
    """

    start: int
    stop: int
    blocks: int
    length: int
    tokens: Tensor | None = None
    places: Tensor | None = None
    mask: Tensor | None = None


class Places(Protocol):
    """Where each text of a pass stands, for attention that knows lengths."""

    @property
    def ends(self) -> Tensor:
        """Where each text ends: int32 ``(texts + 1,)``, starting with 0."""
        ...

    @property
    def longest(self) -> int:
        """Tokens of the longest text, or more."""
        ...


@dataclass(frozen=True)
class Layout:
    """Where each text of a pass stands: the longest first, one behind the other.

    ``dtype`` is that of the masks. Causal texts stand alone in their block: padding behind them
    needs no mask.
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
    def groups(self) -> list[Group]:
        """The texts in blocks, for attention that knows no lengths."""
        return [self._group(start, own) for start, own in _alike(self.lengths)]

    def _group(self, start: int, lengths: Sequence[int]) -> Group:
        longest, texts, stop = lengths[0], len(lengths), start + sum(lengths)
        if texts == 1 and longest <= _SHORTEST_BLOCK:
            return Group(start, stop, 1, longest)
        length = max(_SHORTEST_BLOCK, _rounded(longest))
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
    found = torch.from_numpy(array)
    if device.type != "cuda":
        return found
    return found.pin_memory().to(device, non_blocking=True)


def _alike(lengths: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    """Cuts texts, longest first, where the next is too short for the block of the first."""
    first = start = 0
    for row in range(1, len(lengths) + 1):
        least = _SHORTEST_IN_GROUP * _rounded(lengths[first])
        if row == len(lengths) or _rounded(lengths[row]) < least:
            own = lengths[first:row]
            yield start, own
            first, start = row, start + sum(own)


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
    """Hides from each place the keys of other texts; ``owner`` is the text at each place, or -1."""
    seen = owner[:, None, None, :] >= 0
    if in_a_block > 1:  # places without a text see each other: a row without a key is not a number
        seen = owner[:, None, :, None] == owner[:, None, None, :]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~torch.from_numpy(seen), -torch.inf)
