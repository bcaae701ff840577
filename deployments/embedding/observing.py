"""What happens in a worker, told to whoever records it while a forward pass computes.

Ray's metrics take Python's lock for a third of a millisecond a pass, just when the answers of that
pass leave. While the next one computes nobody needs the lock.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from deployments.embedding.job import Job
    from deployments.embedding.lanes import Drop, Lane, MicroBatch

log = logging.getLogger(__name__)
_IDLE_S = 0.2


class Observer(Protocol):
    """Sees each decision; see `deployments/metrics.py`. One thread calls it."""

    def ran(self, batch: MicroBatch[Job], started: float, seconds: float) -> None:
        """A micro-batch went through the engine."""

    def dropped(self, lane: Lane, reason: Drop) -> None:
        """A text left its lane without a forward pass."""

    def refused(self, lane: Lane, texts: int) -> None:
        """A call was turned away because its lane is full."""

    def waiting(self, left: Mapping[Lane, tuple[int, int]]) -> None:
        """The texts and tokens that the lanes hold; told some times a second."""


class Nobody:
    """The observer of a worker that nobody watches."""

    def ran(self, batch: MicroBatch[Job], started: float, seconds: float) -> None:
        """As `Observer.ran`."""

    def dropped(self, lane: Lane, reason: Drop) -> None:
        """As `Observer.dropped`."""

    def refused(self, lane: Lane, texts: int) -> None:
        """As `Observer.refused`."""

    def waiting(self, left: Mapping[Lane, tuple[int, int]]) -> None:
        """As `Observer.waiting`."""


class Notes:
    """Takes notes for an observer, and reads them to it when a pass begins or nothing happens.

    Thread-safe. An observer that raises is logged; the service goes on without its figures.
    """

    def __init__(
        self, observer: Observer, waiting: Callable[[], Mapping[Lane, tuple[int, int]]]
    ) -> None:
        """``waiting`` returns what `Observer.waiting` is told."""
        self._observer = observer
        self._waiting = waiting
        self._notes: deque[Callable[[], None]] = deque()
        self._begun = threading.Event()
        self._closing = False
        self._has_failed = False
        self._thread = threading.Thread(target=self._loop, name="observer", daemon=True)
        self._thread.start()

    def ran(self, batch: MicroBatch[Job], started: float, seconds: float) -> None:
        """Notes that a micro-batch went through the engine."""
        self._notes.append(partial(self._observer.ran, batch, started, seconds))

    def dropped(self, lane: Lane, reason: Drop) -> None:
        """Notes that a text left its lane without a forward pass."""
        self._notes.append(partial(self._observer.dropped, lane, reason))

    def refused(self, lane: Lane, texts: int) -> None:
        """Notes that a call was turned away."""
        self._notes.append(partial(self._observer.refused, lane, texts))

    def pass_begins(self) -> None:
        """Now is the time to read them out."""
        if self._notes:
            self._begun.set()

    def close(self, timeout_s: float) -> None:
        """Reads out what is left; returns after this time at the latest."""
        self._closing = True
        self._begun.set()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._closing:
            self._begun.wait(_IDLE_S)
            self._begun.clear()
            self._read_out()
        self._read_out()

    def _read_out(self) -> None:
        try:
            while self._notes:
                self._notes.popleft()()
            self._observer.waiting(self._waiting())
        except Exception:
            if not self._has_failed:  # what fails once may fail a thousand times a second
                log.exception("metrics cannot be recorded; this is logged once")
            self._has_failed = True
