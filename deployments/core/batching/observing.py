"""Reports what happens in a batcher to its metrics, at a moment when that disturbs least.

Ray's metrics hold Python's lock (the GIL) for a third of a millisecond a pass. Recorded at once, they
would hold it just when the answers of that pass leave. So events are kept until a moment after the
next pass has begun: then the answers are gone, and a CPU engine computes without the lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployments.core.batching.lanes import DropReason, MicroBatch
    from deployments.core.batching.pending_call import PendingCall
    from deployments.core.lane import Lane

log = logging.getLogger(__name__)
_IDLE_S = 0.2
_ANSWERS_LEAVE_S = 0.001
_MAX_EVENTS = 10_000  # an observer that hangs costs metrics, not memory


@dataclass(frozen=True)
class Pass:
    """One forward pass: the tokens of each text, its cost (see `MicroBatch.cost`) and its duration
    (CPU seconds in a low-priority thread), and how long the first text of each lane had waited.
    """

    lengths: tuple[int, ...]
    cost: int
    seconds: float
    queued_s: Mapping[Lane, float]

    @classmethod
    def of(cls, batch: MicroBatch[PendingCall], started: float, seconds: float) -> Pass:
        """Returns the figures of a micro-batch, without its texts and vectors."""
        first = {text.lane: text.arrived for text in reversed(batch.texts)}
        waits = {lane: max(0.0, started - arrived) for lane, arrived in first.items()}
        return cls(tuple(text.tokens for text in batch.texts), batch.cost, seconds, waits)


class Observer:
    """Records nothing; subclasses override what they record. A single thread calls it."""

    def ran(self, done: Pass) -> None:
        """A micro-batch went through the engine."""

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """A text left its lane without a forward pass."""

    def refused(self, lane: Lane, texts: int) -> None:
        """A call was refused because its lane is full."""

    def waiting(self, backlog: Mapping[Lane, tuple[int, int]]) -> None:
        """How many texts and tokens wait in each lane: after each pass, and several times a second."""


class DeferredObserver:
    """Collects events and passes them to an observer in a thread of its own.

    Thread-safe. If the observer raises or hangs, metrics are lost but the service goes on.
    """

    def __init__(
        self, observer: Observer, waiting: Callable[[], Mapping[Lane, tuple[int, int]]]
    ) -> None:
        """``waiting`` returns the backlog for `Observer.waiting`."""
        self._observer = observer
        self._waiting = waiting
        self._events: deque[Callable[[], None]] = deque(maxlen=_MAX_EVENTS)
        self._begun = threading.Event()
        self._closing = False
        self._has_failed = False
        self._thread = threading.Thread(target=self._loop, name="observer", daemon=True)
        self._thread.start()

    def ran(self, batch: MicroBatch[PendingCall], started: float, seconds: float) -> None:
        """Records that a micro-batch went through the engine."""
        self._events.append(partial(self._observer.ran, Pass.of(batch, started, seconds)))

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """Records that a text left its lane without a forward pass."""
        self._events.append(partial(self._observer.dropped, lane, reason))

    def refused(self, lane: Lane, texts: int) -> None:
        """Records that a call was refused."""
        self._events.append(partial(self._observer.refused, lane, texts))

    def pass_begins(self) -> None:
        """Triggers reporting a moment from now; without a pass it happens every 0.2 s."""
        self._begun.set()

    def close(self, timeout_s: float) -> None:
        """Reports the remaining events; returns after ``timeout_s`` at the latest."""
        self._closing = True
        self._begun.set()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._closing:
            if self._begun.wait(_IDLE_S):
                self._begun.clear()
                time.sleep(_ANSWERS_LEAVE_S)
            self._report()
        self._report()

    def _report(self) -> None:
        while self._events:
            self._deliver(self._events.popleft())
        self._deliver(lambda: self._observer.waiting(self._waiting()))

    def _deliver(self, event: Callable[[], None]) -> None:
        try:
            event()
        except Exception:
            if not self._has_failed:  # it may fail a thousand times a second
                log.exception("metrics cannot be recorded; this is logged only once")
            self._has_failed = True
