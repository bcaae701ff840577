"""What batching needs from an engine: token ids in, vectors out. Imports no torch."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from deployments.core.batch import AnyVectors, TokenBatch


class Network(StrEnum):
    """How an engine computes a model: without padding, or by sentence-transformers' own modules.

    ``AUTO`` takes the fast path where the model's files allow it.
    """

    AUTO = "auto"
    FAST = "fast"
    GENERAL = "general"


class Engine(Protocol):
    """One model on one device."""

    dimension: int
    vocabulary: int

    @property
    def pads(self) -> bool:
        """Whether a pass costs longest × rows, or the sum of its tokens."""
        ...

    def slow_at_first(self, most: int) -> list[int]:
        """Returns the numbers of tokens, up to about ``most``, whose first pass takes long."""
        ...

    def forward(self, batch: TokenBatch) -> AnyVectors:
        """Returns float32 vectors ``(texts, dimension)`` of one pass, in the batch's order.

        They are what the model's modules give, without a final normalisation: the client normalises,
        after it has cut a vector to fewer dimensions. Those of a sparse model are `SparseVectors`.
        Several threads may call it at once.
        """
        ...

    def free_memory(self) -> None:
        """Gives back memory that the device's allocator keeps; called after a pass ran out of it."""
        ...
