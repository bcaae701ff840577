"""What batching needs from an engine: token ids in, vectors out. Imports no torch."""

from __future__ import annotations

from typing import Protocol

from deployments.core.batch import TokenBatch, Vectors


class Engine(Protocol):
    """One model on one device."""

    dimension: int
    vocabulary: int
    pads: bool  # whether a pass costs longest × rows, or the sum of its tokens

    def slow_at_first(self, most: int) -> list[int]:
        """Returns the numbers of tokens, up to about ``most``, whose first pass takes long."""
        ...

    def forward(self, batch: TokenBatch) -> Vectors:
        """Returns pooled, unnormalised float32 vectors ``(texts, dimension)`` of one pass.

        Several threads may call it at once.
        """
        ...

    def free_memory(self) -> None:
        """Gives back memory that the device's allocator keeps; called after a pass ran out of it."""
        ...
