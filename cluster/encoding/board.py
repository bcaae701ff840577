"""Where workers write how far they are, and the driver reads it. Approximate: the parts count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray


@dataclass(frozen=True)
class Tally:
    """What has been done since the start of this run.

    ``weight`` is the encoded share of the input in bytes, ``skipped`` what earlier runs had done.
    """

    texts: int = 0
    tokens: int = 0
    rejected: int = 0
    weight: float = 0.0
    skipped: float = 0.0
    replicas: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Sums, but for the replicas, which are the latest seen."""
        return Tally(
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.rejected + other.rejected,
            self.weight + other.weight,
            self.skipped + other.skipped,
            other.replicas or self.replicas,
        )


class Board:
    """A Ray actor that sums tallies, and knows whether anyone still waits for them."""

    def __init__(self) -> None:
        self._sum = Tally()
        self._abandoned = False

    def add(self, tally: Tally) -> None:
        """Called by workers."""
        self._sum += tally

    def total(self) -> Tally:
        """Called by the driver."""
        return self._sum

    def abandon(self) -> None:
        """Called by a driver that was interrupted and lives on, such as a notebook's kernel."""
        self._abandoned = True

    def abandoned(self) -> bool:
        """Called by workers now and then."""
        return self._abandoned


def open_board() -> Any:
    """Returns the handle of a new board, which takes no CPU."""
    return ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
