"""Delivers the results of passes: in a thread of its own if a next pass waits, so that it begins at once.

Answering a call wakes its event loop, which takes Python's lock (the GIL); between two passes the
engine's thread would wait for it. While a pass computes, nobody needs the lock. If no pass waits, the
engine's thread delivers the results itself, since a hop to another thread costs a single text 0.1 ms.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from deployments.core.batch import AnyVectors
from deployments.core.batching.lanes import MicroBatch, QueuedText
from deployments.core.batching.observing import DeferredObserver
from deployments.core.batching.passes import any_failed
from deployments.core.batching.pending_call import PendingCall
from deployments.core.errors import DeadlineExceeded, EmbedfleetError, ModelUnavailable


class ResultDispatcher:
    """Answers calls in the order in which passes end. Thread-safe, except for `close`.

    If delivering raises, the calls concerned get an error, and later `settle` and `drop` raise it.
    """

    def __init__(self, observer: DeferredObserver) -> None:
        self._observer = observer
        self._delivering = threading.Lock()  # a call's texts may come from several passes at once
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="answers")
        # start the thread now: a thread inherits the priority of the thread that starts it
        self._pool.submit(int).result()
        self.broken: BaseException | None = None

    def settle(
        self,
        batch: MicroBatch[PendingCall],
        outcome: Sequence[AnyVectors | EmbedfleetError],
        started: float,
        seconds: float,
        at_once: bool = False,
    ) -> None:
        """Gives each text of a pass its vector or error; with ``at_once``, before it returns.

        Raises ValueError if there are not as many results as texts.
        """
        results = list(zip(batch.texts, outcome, strict=True))

        def work() -> None:
            for text, result in results:
                text.owner.start(started)
                text.owner.settle(text.row, result)
            for call in _owners(batch.texts):
                call.computed_s += seconds
                call.finish_if_settled(started)
            if not any_failed(outcome):
                self._observer.ran(batch, started, seconds)

        self._hand_over(work, batch.texts, at_once)

    def drop(self, batch: MicroBatch[PendingCall]) -> None:
        """Answers the texts that left their lane without a pass."""
        if not batch.dropped:
            return
        texts, now = [text for text, _ in batch.dropped], time.monotonic()

        def work() -> None:
            for text, reason in batch.dropped:
                error = DeadlineExceeded(
                    "the deadline passed while the text waited for a forward pass"
                )
                text.owner.settle(text.row, error)
                self._observer.dropped(text.lane, reason)
            for call in _owners(texts):
                call.finish_if_settled(now)

        self._hand_over(work, texts)

    def close(self) -> None:
        """Returns once every call is answered."""
        self._pool.shutdown()

    def _hand_over(
        self,
        work: Callable[[], None],
        texts: Sequence[QueuedText[PendingCall]],
        at_once: bool = False,
    ) -> None:
        if self.broken is not None:
            raise self.broken
        if at_once:
            self._guarded(work, texts)
        else:
            self._pool.submit(self._guarded, work, texts)

    def _guarded(self, work: Callable[[], None], texts: Sequence[QueuedText[PendingCall]]) -> None:
        try:
            with self._delivering:
                work()
        except BaseException as error:
            self.broken = error
            for call in _owners(texts):
                call.fail(ModelUnavailable(f"the answer could not be delivered: {error!r}"))


def _owners(texts: Iterable[QueuedText[PendingCall]]) -> Iterable[PendingCall]:
    return {id(text.owner): text.owner for text in texts}.values()
