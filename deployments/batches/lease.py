"""Who runs the batches of a store: one runner at a time, whatever is restarted or shares the store.

The runner rewrites a note every few seconds. Another one takes over once the note has stood still for a
while, by its own clock: those of machines differ. Of two that take over at once, the one that wrote last
has the lease, because both look again before they go on.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from deployments.batches.store import Store

BEAT_S = 2.0
_NOTE = "runner.json"
_STALE_S = 10.0
_SETTLE_S = 1.0


class Lease:
    """One runner's claim to a store. Each method blocks for as long as the store takes."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._name = uuid.uuid4().hex
        self._beats = 0
        self._others: object = None
        self._since = clock()
        self._claimed_at: float | None = None

    @property
    def is_held(self) -> bool:
        """Whether this runner may work, as of the last `renew`."""
        return self._claimed_at is not None and self._clock() - self._claimed_at >= _SETTLE_S

    def renew(self) -> bool:
        """Looks who has the lease, takes it if nobody does, and shows that this runner is alive.

        Returns `is_held`. Call it every `BEAT_S`. Raises StoreFailed.
        """
        note = self._store.note(_NOTE)
        if note is not None and note["runner"] != self._name and self._is_alive(note):
            self._claimed_at = None
            return False
        self._claimed_at = self._claimed_at or self._clock()
        self._beats += 1
        self._store.write_note(_NOTE, {"runner": self._name, "beats": self._beats})
        return self.is_held

    def _is_alive(self, note: object) -> bool:
        """Whether another runner's note has changed within the last while."""
        if note != self._others:
            self._others, self._since = note, self._clock()
        return self._clock() - self._since < _STALE_S
