"""Where the texts of a pass stand: one behind the other, and for attention in blocks of one length.

Texts of like length share a group of blocks. A block is padded to a length that matrix units like,
and holds several texts where they are very short: attention costs by the block, not by the token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# measured on a CPU with matrix units: a block of 40 takes longer than one of 48 (benchmarks/LOG.md)
_STEP = 16
_SHORTEST_BLOCK = 32
# texts share a group down to this part of its block length
_SHORTEST_IN_GROUP = 0.75

_Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
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

    def spread(self, flat: Tensor) -> Tensor:
        """Returns ``(tokens, heads, width)`` as ``(blocks, heads, length, width)``."""
        own = flat[self.start : self.stop]
        if self.tokens is not None:
            own = own.index_select(0, self.tokens)
        return own.view(self.blocks, self.length, *flat.shape[1:]).transpose(1, 2)

    def gather(self, attended: Tensor, into: Tensor) -> None:
        """Puts ``(blocks, heads, length, width)`` in place, ``into`` ``(tokens, heads, width)``."""
        back, own = attended.transpose(1, 2).flatten(0, 1), into[self.start : self.stop]
        if self.places is None:
            own.copy_(back)
        else:
            torch.index_select(back, 0, self.places, out=own)


@dataclass(frozen=True)
class Layout:
    """Where each text of a pass stands. ``ends`` is int32 ``(texts + 1,)``, starting with 0."""

    ends: Tensor
    longest: int
    groups: tuple[Group, ...]

    @classmethod
    def of(
        cls, lengths: Sequence[int], device: torch.device, dtype: torch.dtype, causal: bool
    ) -> Layout:
        """Lays out texts of these lengths, longest first; ``dtype`` is that of the masks.

        Causal texts stand alone in their block: padding behind them needs no mask.
        """
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        groups = (_group(start, own, device, dtype, causal) for start, own in _alike(lengths))
        return cls(ends, lengths[0], tuple(groups))


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


def _group(
    start: int, lengths: Sequence[int], device: torch.device, dtype: torch.dtype, causal: bool
) -> Group:
    longest, texts, stop = lengths[0], len(lengths), start + sum(lengths)
    if texts == 1 and longest <= _SHORTEST_BLOCK:
        return Group(start, stop, 1, longest)
    length = max(_SHORTEST_BLOCK, _rounded(longest))
    in_a_block = 1 if causal else length // longest
    blocks = -(-texts // in_a_block)
    if in_a_block == 1 and stop - start == texts * length:
        return Group(start, stop, blocks, length)
    text, places = _places(lengths, length, in_a_block)
    tokens = np.zeros(blocks * length, np.int64)
    tokens[places] = np.arange(len(places))
    owner = np.full(blocks * length, -1)
    owner[places] = text
    mask = None if causal else _mask(owner.reshape(blocks, length), in_a_block, dtype)
    found = torch.from_numpy(tokens), torch.from_numpy(places), mask
    return Group(start, stop, blocks, length, *(None if t is None else t.to(device) for t in found))


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
    if (
        in_a_block > 1
    ):  # places without a text see each other: a row without any key is not a number
        seen = owner[:, None, :, None] == owner[:, None, None, :]
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~torch.from_numpy(seen), -torch.inf)
