"""What `Client` and `AsyncClient` return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Vectors: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors, and what they are.

    ``vectors`` is float32 ``(texts, dimensions)``, in the order of the texts. Only vectors of the same
    ``space`` can be compared. ``instruction`` is the one that was put in front of the texts. ``tokens``
    counts all that was computed, prompts included. ``truncated`` are the rows whose texts were cut.
    """

    vectors: Vectors
    model: str
    space: str
    instruction: str | None
    tokens: int
    truncated: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class RankedDocument:
    """A document's index in the call, and its score with the query."""

    index: int
    score: float


@dataclass(frozen=True)
class Ranking:
    """Documents, best first.

    ``method`` says what the scores are: ``cross-encoder`` for a reranker's, ``cosine`` for others.
    ``truncated`` are the documents that were cut.
    """

    documents: tuple[RankedDocument, ...]
    model: str
    method: str
    tokens: int
    truncated: tuple[int, ...]
