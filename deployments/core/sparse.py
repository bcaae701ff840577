"""Sparse vectors: of each text, only the entries that are not zero.

A vector of SPLADE has an entry for each token of the vocabulary, some 30,000, of which a few hundred are
not zero. Written out, it would be a hundred times as large on the wire and in a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.uint32]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SparseVectors:
    """Rows with their entries back to back.

    ``indices`` is flat uint32 and rises within a row, ``values`` is flat float32 of the same shape.
    ``lengths`` is int32 ``(texts,)``: each row's number of entries. ``dimension`` is what a row has
    written out.
    """

    indices: Indices
    values: Values
    lengths: npt.NDArray[np.int32]
    dimension: int

    @classmethod
    def from_dense(cls, vectors: npt.NDArray[np.float32]) -> SparseVectors:
        """Returns the entries of float32 vectors ``(texts, dimension)``; NaN is one too."""
        rows, columns = np.nonzero(vectors)
        lengths = np.bincount(rows, minlength=len(vectors)).astype(np.int32)
        values = vectors[rows, columns].astype(np.float32, copy=False)
        return cls(columns.astype(np.uint32), values, lengths, vectors.shape[1])

    @classmethod
    def concatenate(cls, parts: Sequence[SparseVectors]) -> SparseVectors:
        """Joins rows in order. There must be one part at least."""
        return cls(
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.values for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            parts[0].dimension,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, rows: slice) -> SparseVectors:
        """Returns rows that lie side by side, as views."""
        start, stop, _ = rows.indices(len(self))
        first, last = self.offsets[start], self.offsets[max(start, stop)]
        lengths = self.lengths[start:stop]
        return SparseVectors(
            self.indices[first:last], self.values[first:last], lengths, self.dimension
        )

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the same vectors written out."""
        return len(self), self.dimension

    @property
    def size(self) -> int:
        """How many numbers there are: an index and a value for each entry."""
        return 2 * len(self.values)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each row starts, and the end: shape ``(texts + 1,)``."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def rows(self) -> list[SparseVectors]:
        """Returns each row on its own, as views."""
        return [self[row : row + 1] for row in range(len(self))]

    def take(self, rows: npt.ArrayLike) -> SparseVectors:
        """Returns these rows, in the order given."""
        rows = np.asarray(rows, np.int64)
        lengths, starts = self.lengths[rows], self.offsets[rows]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        places = np.repeat(starts, lengths) + within
        return SparseVectors(self.indices[places], self.values[places], lengths, self.dimension)

    def dense(self) -> npt.NDArray[np.float32]:
        """Returns the vectors written out: float32 ``(texts, dimension)``."""
        vectors = np.zeros(self.shape, np.float32)
        vectors[np.repeat(np.arange(len(self)), self.lengths), self.indices] = self.values
        return vectors

    @classmethod
    def placed(
        cls, parts: Sequence[tuple[Sequence[int], SparseVectors]], texts: int
    ) -> SparseVectors:
        """Returns so many rows: those of each part at the places named, and empty ones elsewhere."""
        nothing = np.empty(0, np.uint32), np.empty(0, np.float32), np.zeros(1, np.int32)
        whole = cls.concatenate(
            [*(part for _, part in parts), cls(*nothing, parts[0][1].dimension)]
        )
        sources = np.full(texts, len(whole) - 1)
        sources[[row for rows, _ in parts for row in rows]] = np.arange(len(whole) - 1)
        return whole.take(sources)
