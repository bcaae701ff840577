"""Who runs the batches of a store: one runner at a time, whatever is restarted or shares the store.

The runner rewrites a note every few seconds. Another one takes over once the note has stood still for a
while, by its own clock: those of machines differ. Of two that take over at once, the one that wrote last
has the lease, because both look again before they go on. A runner that could not renew its note in time,
such as while its process was suspended, has lost the lease before another one can have it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from math import inf

from deployments.batches.store import Store

BEAT_S = 2.0
_NOTE = "runner.json"
VALID_S, _STALE_S = 7.0, 10.0
_SETTLE_S = 1.0


class LeaseLost(Exception):
    """Another runner may have taken over; what it writes must not be replaced."""


class Lease:
    """One runner's claim to a store."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._beats = 0
        self._others: object = None
        self._since = clock()
        self._claimed_at = self._until = -inf
        self._has_settled = False

    @property
    def is_held(self) -> bool:
        """Whether this runner may work."""
        return self._has_settled and self._clock() < self._until

    def check(self) -> None:
        """Raises LeaseLost unless this runner may work."""
        if not self.is_held:
            raise LeaseLost("another runner may have taken over")

    def renew(self, store: Store) -> None:
        """Looks who has the lease, takes it if nobody does, and shows that this runner is alive.

        Blocks. Call it every `BEAT_S`. Raises StoreFailed.
        """
        now = self._clock()
        note = store.note(_NOTE)
        if note is not None and note["runner"] != self._name and self._is_alive(note):
            self._until = -inf
            return
        if now >= self._until:  # it is new, or another one may have had the lease meanwhile
            self._claimed_at, self._has_settled = now, False
        self._beats += 1
        store.write_note(_NOTE, {"runner": self._name, "beats": self._beats})
        self._has_settled = now - self._claimed_at >= _SETTLE_S
        self._until = now + VALID_S

    def _is_alive(self, note: object) -> bool:
        """Whether another runner's note has changed within the last while."""
        if note != self._others:
            self._others, self._since = note, self._clock()
        return self._clock() - self._since < _STALE_S
