"""An engine with predictable vectors that fails or waits on demand. No weights, no torch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from deployments.core.batch import TokenBatch, Vectors


def vector_of(ids: list[int]) -> list[float]:
    """Returns what the fake engine answers for one text."""
    return [float(sum(ids)), float(ids[0]), float(ids[-1]), float(len(ids))]


@dataclass
class FakeEngine:
    """Implements the `Engine` protocol.

    ``poison`` is an id that makes a pass fail, and ``room`` the number of padded tokens that fit into its
    memory. While ``held`` is true, a pass sets ``entered`` and waits for ``release``.
    """

    dimension: int = 4
    vocabulary: int = 1_000
    poison: int | None = None
    error: Callable[[], BaseException] = lambda: ValueError("a poisoned text")
    room: float = float("inf")
    held: bool = False
    passes: list[list[int]] = field(default_factory=list)
    freed: int = 0
    entered: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def slow_at_first(self, most: int) -> list[int]:
        """Returns some numbers of tokens."""
        return [n for n in (16, 200, 1_024) if n <= most]

    def free_memory(self) -> None:
        """Counts the calls."""
        self.freed += 1

    def forward(self, batch: TokenBatch) -> Vectors:
        """Returns `vector_of` each text."""
        texts = [batch.text(row).tolist() for row in range(len(batch))]
        self.passes.append([ids[0] for ids in texts])
        if self.held:
            self.entered.set()
            assert self.release.wait(10), "the test has not released this pass"
        if self.poison is not None and any(self.poison in ids for ids in texts):
            raise self.error()
        if max(map(len, texts)) * len(texts) > self.room:
            raise MemoryError("no room for this pass")
        return np.array([vector_of(ids) for ids in texts], np.float32)
