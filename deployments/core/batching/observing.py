"""What happens in a batcher, told to whoever records it when that disturbs least.

Ray's metrics hold Python's lock for a third of a millisecond a pass. Told at once, they would hold it
just when the answers of that pass leave; a moment after the next pass has begun, they are gone, and on
a CPU the engine computes without the lock.
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
_MOST_NOTES = 10_000  # an observer that hangs costs figures, not memory


@dataclass(frozen=True)
class Pass:
    """One forward pass: the tokens of each text, its cost (see `MicroBatch`), its seconds (of the
    processor, where it gives way), and how long the text that stands first in each lane had waited.
    """

    lengths: tuple[int, ...]
    cost: int
    seconds: float
    queued_s: Mapping[Lane, float]

    @classmethod
    def of(cls, batch: MicroBatch[PendingCall], started: float, seconds: float) -> Pass:
        """Returns what there is to record of a micro-batch, without its texts and vectors."""
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
    """Takes notes for an observer, and reads them to it in a thread of its own.

    Thread-safe. An observer that raises or hangs costs its figures; the service goes on.
    """

    def __init__(
        self, observer: Observer, waiting: Callable[[], Mapping[Lane, tuple[int, int]]]
    ) -> None:
        """``waiting`` returns what `Observer.waiting` is told."""
        self._observer = observer
        self._waiting = waiting
        self._notes: deque[Callable[[], None]] = deque(maxlen=_MOST_NOTES)
        self._begun = threading.Event()
        self._closing = False
        self._has_failed = False
        self._thread = threading.Thread(target=self._loop, name="observer", daemon=True)
        self._thread.start()

    def ran(self, batch: MicroBatch[PendingCall], started: float, seconds: float) -> None:
        """Notes that a micro-batch went through the engine."""
        self._notes.append(partial(self._observer.ran, Pass.of(batch, started, seconds)))

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """Notes that a text left its lane without a forward pass."""
        self._notes.append(partial(self._observer.dropped, lane, reason))

    def refused(self, lane: Lane, texts: int) -> None:
        """Notes that a call was turned away."""
        self._notes.append(partial(self._observer.refused, lane, texts))

    def pass_begins(self) -> None:
        """The notes are read a moment from now; without a pass, after a while."""
        self._begun.set()

    def close(self, timeout_s: float) -> None:
        """Reads out what is left; returns after this time at the latest."""
        self._closing = True
        self._begun.set()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._closing:
            if self._begun.wait(_IDLE_S):
                self._begun.clear()
                time.sleep(_ANSWERS_LEAVE_S)
            self._read_out()
        self._read_out()

    def _read_out(self) -> None:
        while self._notes:
            self._tell(self._notes.popleft())
        self._tell(lambda: self._observer.waiting(self._waiting()))

    def _tell(self, note: Callable[[], None]) -> None:
        try:
            note()
        except Exception:
            if not self._has_failed:  # what fails once may fail a thousand times a second
                log.exception("metrics cannot be recorded; this is logged once")
            self._has_failed = True
