"""The loops around an engine: take a micro-batch, run it, hand out the vectors, repeat.

`Batcher.submit` puts a call's texts into a lane. `PassScheduler` decides when the next forward pass may
begin, `Lanes` which texts share it, `passes` runs it, and `ResultDispatcher` resolves the call's future.

Each stream runs its forward passes in a thread of its own, so they never block the event loop that
submits calls. If online texts preempt offline ones, the offline threads have a lower priority. The
Batcher knows neither Ray nor asyncio: answers are `concurrent.futures.Future` objects.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from deployments.core.batch import Encoded, TokenBatch
from deployments.core.batching.lanes import BatchLimits, MicroBatch
from deployments.core.batching.observing import DeferredObserver, Observer
from deployments.core.batching.pass_scheduler import PassScheduler
from deployments.core.batching.passes import any_failed, run_waiting
from deployments.core.batching.pending_call import PendingCall
from deployments.core.batching.results import ResultDispatcher
from deployments.core.engine.cpu.priority import give_way
from deployments.core.errors import ModelUnavailable, Overloaded
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import SHARE_OF_ANYONE, Share

if TYPE_CHECKING:
    from deployments.core.engine.interface import Engine

log = logging.getLogger(__name__)
_CLOSE_S = 1.0
_RETRY_AFTER_S = 1.0


class Batcher:
    """Feeds one engine from two lanes. Thread-safe.

    A loop that dies calls ``on_death`` before it fails its calls.
    """

    on_death: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self,
        engine: Engine,
        limits: BatchLimits,
        max_wait_s: Mapping[Lane, float],
        tokens_per_s: float,
        observer: Observer | None = None,
    ) -> None:
        """Starts the loops.

        ``max_wait_s`` bounds each lane: a call that would wait longer is refused. ``tokens_per_s`` is
        the speed of all streams together; it is updated from the passes that run.
        """
        self._engine = engine
        self._limits = limits
        self._max_wait_s = dict(max_wait_s)
        self._speed = SpeedEstimate(tokens_per_s, limits)
        self.streams = limits.streams
        self._scheduler = PassScheduler(limits)
        self._scheduler.lanes.tokens_per_s = tokens_per_s
        self._lock = threading.Lock()
        self._work = {lanes: threading.Condition(self._lock) for lanes in limits.sharing}
        self._observer = DeferredObserver(observer or Observer(), self._all_waiting)
        self._dispatcher = ResultDispatcher(self._observer)
        self._stopping = False
        self._broken: BaseException | None = None
        self.last_success: float | None = None
        self._threads = {
            lanes: [self._thread(lanes, number) for number in range(self.streams)]
            for lanes in limits.sharing
        }
        self._open_loops = len(self._all_threads)
        for thread in self._all_threads:
            thread.start()

    def _thread(self, lanes: Sequence[Lane], number: int) -> threading.Thread:
        name = f"engine-{'-'.join(lanes)}-{number}"
        return threading.Thread(target=self._loop, args=(lanes,), name=name, daemon=True)

    @property
    def tokens_per_s(self) -> float:
        """The measured speed of all streams together."""
        return self._speed.tokens_per_s

    @property
    def _all_threads(self) -> list[threading.Thread]:
        return [thread for threads in self._threads.values() for thread in threads]

    def submit(
        self,
        batch: TokenBatch,
        lane: Lane,
        timeout_s: float,
        begin: Callable[[int | None], None] | None = None,
        *,
        share: Share = SHARE_OF_ANYONE,
    ) -> Future[Encoded]:
        """Queues a call's texts for a tenant; the future resolves to their vectors in order.

        Cancelling the future drops the texts that are not yet computed. With ``begin`` the call is a
        trial: each text gets a forward pass of its own, ``begin`` is called with its row before the pass
        and with None after it. Raises Overloaded if too much work is due before it, with the seconds
        until that is done, and ModelUnavailable if the batcher has stopped.
        """
        now = time.monotonic()
        call = PendingCall(batch, lane, self._engine.dimension, now, begin)
        with self._lock:
            self._refuse_if_broken()
            if begin is None:
                deadline = now + timeout_s
                self._refuse_if_full(lane, batch, now, deadline, share)
                lengths = batch.lengths.tolist()
                self._scheduler.lanes.put(call, lengths, lane, now, deadline, share=share)
            else:
                self._scheduler.try_alone(call, now, now + timeout_s)
            self._wake_one()
        if not len(batch):
            call.finish_if_settled(now)
        return call.future

    def waiting(self, lane: Lane) -> tuple[int, int]:
        """Returns how many texts and tokens wait in a lane."""
        with self._lock:
            return self._scheduler.lanes.waiting_texts(lane), self._scheduler.lanes.waiting_tokens(
                lane
            )

    def _all_waiting(self) -> dict[Lane, tuple[int, int]]:
        return {lane: self.waiting(lane) for lane in Lane}

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the loops after the running passes; texts that still wait get an error."""
        with self._lock:
            self._stopping = True
            self._wake_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._all_threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def alive(self) -> bool:
        """Whether all loops run and answers are still delivered."""
        running = all(thread.is_alive() for thread in self._all_threads)
        return running and self._dispatcher.broken is None

    @property
    def urgent_threads(self) -> set[int]:
        """Operating system ids of the threads that compute online texts."""
        threads = next(iter(self._threads.values()))
        return {thread.native_id for thread in threads if thread.native_id is not None}

    @property
    def pass_s(self) -> float:
        """How long the oldest running forward pass has taken so far, in seconds; 0 between passes."""
        with self._lock:
            since = self._scheduler.running
        return time.monotonic() - min(since) if since else 0.0

    def _refuse_if_broken(self) -> None:
        failure = self._broken or self._dispatcher.broken
        if failure is not None or self._stopping:
            raise _unavailable(f"has ended: {failure or 'shutting down'}")

    def _refuse_if_full(
        self, lane: Lane, batch: TokenBatch, now: float, deadline: float, share: Share
    ) -> None:
        lanes, speed = self._scheduler.lanes, self.tokens_per_s
        capacity = max(4.0 * self._limits.token_budget, self._max_wait_s[lane] * speed)
        if not lanes.waiting_tokens(lane) or lanes.waiting_tokens(lane) + batch.tokens <= capacity:
            return
        before = lanes.tokens_before(batch.tokens, lane, now, deadline, share=share)
        if before and before + batch.tokens > capacity:
            self._observer.refused(lane, len(batch))
            raise Overloaded(
                f"the {lane} lane is full: {before} tokens are due first; retry later, or add replicas",
                retry_after_s=before / speed,
            )

    def _loop(self, lanes: tuple[Lane, ...]) -> None:
        batch: MicroBatch[PendingCall] | None = None
        clock = time.monotonic
        if Lane.ONLINE not in lanes:
            give_way({threading.get_native_id()})
            clock = time.thread_time  # excludes the time that it waits for a core
        try:
            while (batch := self._next(lanes, batch)) is not None:
                self._dispatcher.drop(batch)
                if batch.texts:
                    self._run(batch, lanes, clock)
        except BaseException as error:
            log.exception("the engine's loop died; this replica will be replaced")
            self._broken = error
            self.on_death()
            for text in batch.all_texts if batch else ():
                text.owner.fail(_unavailable(f"has died: {error!r}"))
        finally:
            self._end(batch)

    def _next(
        self, lanes: tuple[Lane, ...], last: MicroBatch[PendingCall] | None
    ) -> MicroBatch[PendingCall] | None:
        """Ends the thread's last pass and waits for its next one; None if the batcher is stopping."""
        with self._lock:
            if last is not None:
                self._scheduler.ended(last)
                self._wake_one(besides=lanes)  # a trial may have waited for this pass to end
            while not (self._is_ending or self._scheduler.may_begin(lanes)):
                self._work[lanes].wait()
            if self._is_ending:
                return None
            batch = self._scheduler.take(time.monotonic(), lanes)
            self._wake_one()
            return batch

    def _wake_one(self, besides: tuple[Lane, ...] = ()) -> None:
        for lanes, work in self._work.items():
            if lanes != besides and self._scheduler.may_begin(lanes):
                work.notify()

    def _wake_all(self) -> None:
        for work in self._work.values():
            work.notify_all()

    @property
    def _is_ending(self) -> bool:
        return self._stopping or self._broken is not None

    def _run(
        self, batch: MicroBatch[PendingCall], lanes: Sequence[Lane], clock: Callable[[], float]
    ) -> None:
        self._observer.pass_begins()
        with self._lock:
            # a single text alone gets all CPU threads, which says nothing about several streams
            has_all_threads = len(batch.texts) == len(self._scheduler.running) == 1 < self.streams
        started, before = time.monotonic(), clock()
        outcome = run_waiting(self._engine, batch.texts)
        seconds = clock() - before
        with self._lock:
            if not any_failed(outcome):
                self.last_success = time.monotonic()
                if not has_all_threads:
                    self._speed.learn(batch, seconds, len(self._scheduler.running))
                    self._scheduler.lanes.tokens_per_s = self.tokens_per_s
            # not in a thread of low priority: others would wait for it
            at_once = Lane.ONLINE in lanes and not self._scheduler.has_work
        self._dispatcher.settle(batch, outcome, started, seconds, at_once)

    def _end(self, last: MicroBatch[PendingCall] | None) -> None:
        """Makes the other loops end as well; the last one waits until every call is answered."""
        with self._lock:
            if last is not None:
                self._scheduler.ended(last)
            for call in self._scheduler.clear():
                call.fail(_unavailable("is shutting down"))
            self._wake_all()
            self._open_loops -= 1
            is_last = not self._open_loops
        if is_last:
            self._dispatcher.close()
            self._observer.close(_CLOSE_S)


def _unavailable(why: str) -> ModelUnavailable:
    return ModelUnavailable(f"the engine's loop {why}", "model", _RETRY_AFTER_S)


_LEAST_SHARE = 0.25  # of the token budget, for a pass to count as full enough
_WEIGHT = 0.2  # of the newest pass in the moving average


class SpeedEstimate:
    """A moving average of the tokens per second of all streams together. Not thread-safe."""

    def __init__(self, tokens_per_s: float, limits: BatchLimits) -> None:
        self.tokens_per_s = tokens_per_s
        self._limits = limits

    def learn(self, batch: MicroBatch[PendingCall], seconds: float, running: int) -> None:
        """Updates the average with one pass that took ``seconds`` while ``running`` passes ran.

        Small passes are ignored: they show what a pass costs, not how fast a busy engine is.
        """
        streams = self._limits.streams
        share = min(1.0, batch.cost / self._limits.token_budget)
        if share >= _LEAST_SHARE or batch.leaves_some:
            measured = streams * batch.tokens / max(seconds, 1e-6)
            weight = _WEIGHT * share * min(1.0, running / streams)
            self.tokens_per_s += weight * (measured - self.tokens_per_s)
