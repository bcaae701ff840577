"""What travels to a replica and back: token ids as one flat buffer, vectors as another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from deployments.core.errors import EmbedfleetError
from deployments.core.models.spec import Role
from deployments.core.sparse import SparseVectors

Ids = npt.NDArray[np.int32]
Vectors = npt.NDArray[np.float32]
AnyVectors = Vectors | SparseVectors
_NO_PROMPT = np.array([list(Role).index(Role.DOCUMENT), 0], np.int32)


@dataclass(frozen=True)
class TokenBatch:
    """Texts as token ids, special tokens included.

    ``ids`` is flat int32 of shape ``(sum(lengths),)``; ``lengths`` is int32 of shape ``(texts,)``.
    ``prompts`` is int32 of shape ``(texts, 2)``: each text's role, as its index in `Role`, and how many
    of its tokens belong to its prompt, with the special tokens before it. Few models need it; for all
    others it is None. For a cross-encoder a text is a pair, and its prompt is the first of the two.
    A text that has none, beside others that do, is a document without a prompt.
    """

    ids: Ids
    lengths: Ids
    prompts: Ids | None = None

    @classmethod
    def from_lists(cls, texts: Sequence[Sequence[int]]) -> TokenBatch:
        """Builds a batch from a sequence of ids for each text."""
        lengths = np.fromiter((len(t) for t in texts), np.int32, len(texts))
        ids = np.fromiter((i for t in texts for i in t), np.int32, int(lengths.sum()))
        return cls(ids, lengths)

    @classmethod
    def from_arrays(cls, texts: Sequence[Ids]) -> TokenBatch:
        """Builds a batch from an int32 array of ids for each text."""
        lengths = np.fromiter((len(t) for t in texts), np.int32, len(texts))
        return cls(np.concatenate(texts), lengths)

    @classmethod
    def gather(cls, texts: Sequence[tuple[TokenBatch, int]]) -> TokenBatch:
        """Builds a batch of texts given as a batch and a row in it."""
        ids = cls.from_arrays([batch.text(row) for batch, row in texts])
        if all(batch.prompts is None for batch, _ in texts):
            return ids
        rows = [batch.known_prompts[row] for batch, row in texts]
        return replace(ids, prompts=np.stack(rows))

    @classmethod
    def concatenate(cls, batches: Sequence[TokenBatch]) -> TokenBatch:
        """Joins batches in order."""
        if len(batches) == 1:
            return batches[0]
        have_none = all(b.prompts is None for b in batches)
        return cls(
            np.concatenate([b.ids for b in batches]),
            np.concatenate([b.lengths for b in batches]),
            None if have_none else np.concatenate([b.known_prompts for b in batches]),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens in all texts, without padding."""
        return len(self.ids)

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each text starts in ``ids``, and the end: shape ``(texts + 1,)``."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    @cached_property
    def known_prompts(self) -> Ids:
        """The prompts, or those of documents without one: int32 ``(texts, 2)``."""
        if self.prompts is not None:
            return self.prompts
        return np.tile(_NO_PROMPT, (len(self), 1))

    def text(self, row: int) -> Ids:
        """Returns one text's ids, a view."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    def select(self, rows: Sequence[int]) -> TokenBatch:
        """Returns a batch of these texts, in the order given."""
        return TokenBatch.gather([(self, row) for row in rows])

    def slice(self, start: int, stop: int) -> TokenBatch:
        """Returns texts ``start`` to ``stop``, as views."""
        return TokenBatch(
            self.ids[self.offsets[start] : self.offsets[stop]],
            self.lengths[start:stop],
            None if self.prompts is None else self.prompts[start:stop],
        )

    def padded(self, pad_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Returns ids and mask of shape ``(texts, longest)``, padded on the right."""
        mask = np.arange(int(self.lengths.max())) < self.lengths[:, None]
        ids = np.full(mask.shape, pad_id, np.int64)
        ids[mask] = self.ids
        return ids, mask


def concatenated(parts: Sequence[AnyVectors]) -> AnyVectors:
    """Joins the vectors of one model in order."""
    if len(parts) == 1:
        return parts[0]
    sparse = [part for part in parts if isinstance(part, SparseVectors)]
    dense = [part for part in parts if not isinstance(part, SparseVectors)]
    assert not (sparse and dense)
    return SparseVectors.concatenate(sparse) if sparse else np.concatenate(dense)


def placed(parts: Sequence[tuple[Sequence[int], AnyVectors]], texts: int) -> AnyVectors:
    """Returns the vectors of so many texts, given as parts and their rows; all others are zero.

    A part of shape ``(texts, 0)`` has no vector at all. If there are only such parts, so is the result.
    """
    sparse = [(rows, part) for rows, part in parts if isinstance(part, SparseVectors)]
    if sparse:
        return SparseVectors.placed(sparse, texts)
    dense = [(rows, part) for rows, part in parts if not isinstance(part, SparseVectors)]
    vectors = np.zeros((texts, max((p.shape[1] for _, p in dense), default=0)), np.float32)
    for rows, part in dense:
        if part.shape[1]:
            vectors[rows] = part
    return vectors


@dataclass(frozen=True)
class Encoded:
    """A replica's answer: float32 vectors ``(texts, dimension)``, pooled but not normalised.

    Those of a sparse model are `SparseVectors`. ``queued_s`` and ``computed_s`` say where the time went.
    ``errors`` has the error of each row that has no vector; if all have one, the shape may be
    ``(texts, 0)``.
    """

    vectors: AnyVectors
    queued_s: float
    computed_s: float
    errors: Mapping[int, EmbedfleetError] = field(default_factory=dict)

    def slice(self, start: int, stop: int) -> Encoded:
        """Returns the answer of texts ``start`` to ``stop`` alone, as views."""
        errors = {row - start: e for row, e in self.errors.items() if start <= row < stop}
        return Encoded(self.vectors[start:stop], self.queued_s, self.computed_s, errors)

    def among(
        self, rows: Sequence[int], texts: int, others: Mapping[int, EmbedfleetError]
    ) -> Encoded:
        """Returns the answer to a call of ``texts`` texts: this one's at ``rows``, and the errors of
        ``others`` at their rows.
        """
        vectors = placed([(rows, self.vectors)], texts)
        errors = {rows[row]: error for row, error in self.errors.items()}
        return Encoded(vectors, self.queued_s, self.computed_s, {**errors, **others})
