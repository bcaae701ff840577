"""The loop around an engine: take a micro-batch, run it, hand out the vectors, again.

The forward pass has a thread of its own, so an event loop that feeds it is never blocked. Knows
nothing of Ray or asyncio; answers arrive in `concurrent.futures.Future` objects.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING

from deployments.embedding.answers import Answers, Observer
from deployments.embedding.batch import Encoded, TokenBatch, Vectors
from deployments.embedding.errors import EmbedfleetError, Overloaded
from deployments.embedding.job import Job
from deployments.embedding.lanes import Drop, Lane, LaneLimits, Lanes, MicroBatch, Waiting
from deployments.embedding.passes import any_failed, run_pass

if TYPE_CHECKING:
    from deployments.embedding.engine import Engine

log = logging.getLogger(__name__)
_TELLING_SHARE = 0.25


class Worker:
    """Feeds one engine from two lanes. Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        limits: LaneLimits,
        max_wait_s: Mapping[Lane, float],
        tokens_per_s: float,
        observer: Observer | None = None,
    ) -> None:
        """``max_wait_s`` bounds each lane: work that would wait longer is refused."""
        self._engine = engine
        self._limits = limits
        self._max_wait_s = dict(max_wait_s)
        self._observer = observer
        self._answers = Answers(observer)
        self.tokens_per_s = tokens_per_s
        self._lanes: Lanes[Job] = Lanes(limits)
        self._trials: deque[Waiting[Job]] = deque()
        self._trial_was_last = False
        self._changed = threading.Condition()
        self._stopping = False
        self._broken: BaseException | None = None
        self.last_success: float | None = None
        self._pass_started: float | None = None
        self.consecutive_failures = 0
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        batch: TokenBatch,
        lane: Lane,
        timeout_s: float,
        begin: Callable[[int], None] | None = None,
    ) -> Future[Encoded]:
        """Queues a call's texts; the future gives their vectors in order.

        Cancelling the future drops what is not yet computed. With ``begin`` it is a trial: each text
        has a forward pass of its own, and ``begin`` is told its row before that. Raises Overloaded,
        with the seconds until the lane's backlog is worked off, when the lane is full.
        """
        now = time.monotonic()
        job = Job(batch, lane, self._engine.dimension, now, begin)
        with self._changed:
            self._refuse_if_broken()
            if begin is None:
                self._refuse_if_full(lane, len(batch), batch.tokens)
                self._lanes.put(job, batch.lengths.tolist(), lane, now, now + timeout_s)
            else:
                counts = enumerate(batch.lengths.tolist())
                self._trials.extend(
                    Waiting(job, r, n, lane, now, now + timeout_s) for r, n in counts
                )
            self._changed.notify()
        if not len(batch):
            job.finish_if_settled(now)
        return job.future

    def waiting(self, lane: Lane) -> tuple[int, int]:
        """Returns how many texts and tokens wait in a lane."""
        with self._changed:
            return self._lanes.waiting_texts(lane), self._lanes.waiting_tokens(lane)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the loop after the running pass; what still waits is answered with an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        """Whether the loop runs, and its answers are handed out."""
        return self._thread.is_alive() and self._answers.broken is None

    @property
    def thread_id(self) -> int:
        """The system's id of the thread that runs the engine."""
        assert self._thread.native_id is not None
        return self._thread.native_id

    @property
    def pass_s(self) -> float:
        """Seconds that the running forward pass has taken so far; 0 between passes."""
        started = self._pass_started
        return 0.0 if started is None else time.monotonic() - started

    def _refuse_if_broken(self) -> None:
        broken = self._broken or self._answers.broken
        if broken is not None or self._stopping:
            raise EmbedfleetError(f"the engine's loop has ended: {broken or 'shutting down'}")

    def _refuse_if_full(self, lane: Lane, texts: int, tokens: int) -> None:
        waiting = self._lanes.waiting_tokens(lane)
        room = max(4.0 * self._limits.token_budget, self._max_wait_s[lane] * self.tokens_per_s)
        if waiting and waiting + tokens > room:
            if self._observer:
                self._observer.refused(lane, texts)
            raise Overloaded(
                f"{waiting} tokens already wait in the {lane} lane; retry later, or add replicas",
                retry_after_s=waiting / self.tokens_per_s,
            )

    def _loop(self) -> None:
        batch: MicroBatch[Job] | None = None
        try:
            while (batch := self._next()) is not None:
                self._answers.drop(batch)
                if batch.texts:
                    self._run(batch)
                self._answers.tell({lane: self.waiting(lane) for lane in Lane})
        except BaseException as error:
            log.exception("the engine's loop has died; this replica will be replaced")
            self._broken = error
            for text in batch.all_texts if batch else ():
                text.owner.fail(EmbedfleetError(f"the engine's loop has died: {error!r}"))
        finally:
            self._fail_what_waits()
            self._answers.close()

    def _next(self) -> MicroBatch[Job] | None:
        with self._changed:
            while not (self._lanes or self._trials or self._stopping):
                self._changed.wait()
            return None if self._stopping else self._take(time.monotonic())

    def _take(self, now: float) -> MicroBatch[Job]:
        """Trials and lanes take turns."""
        self._trial_was_last = bool(self._trials) and not (self._lanes and self._trial_was_last)
        if not self._trial_was_last:
            return self._lanes.take(now)
        text = self._trials.popleft()
        if text.owner.gone or text.deadline <= now:
            return MicroBatch([], [(text, Drop.GONE if text.owner.gone else Drop.EXPIRED)])
        return MicroBatch([text], [], self._limits.pads)

    def _run(self, batch: MicroBatch[Job]) -> None:
        self._pass_started = started = time.monotonic()
        outcome = self._pass(batch.texts)
        self._pass_started = None
        seconds = time.monotonic() - started
        self._learn(batch, outcome, seconds)
        self._answers.settle(batch, outcome, started, seconds)

    def _pass(self, texts: list[Waiting[Job]]) -> list[Vectors | EmbedfleetError]:
        first = texts[0]
        if first.owner.begin is not None:
            try:
                first.owner.begin(first.row)
            except Exception as error:
                return [EmbedfleetError(f"a text that may kill replicas cannot be tried: {error}")]
        return run_pass(self._engine, [text.owner.batch.text(text.row) for text in texts])

    def _learn(
        self, batch: MicroBatch[Job], outcome: list[Vectors | EmbedfleetError], seconds: float
    ) -> None:
        if any_failed(outcome):
            self.consecutive_failures += 1
            return
        self.consecutive_failures = 0
        self.last_success = time.monotonic()
        # a small pass tells what a pass costs, not how fast the engine is when there is enough to do
        share = min(1.0, batch.cost / self._limits.token_budget)
        weight = 0.2 * share if share >= _TELLING_SHARE or self._lanes else 0.0
        self.tokens_per_s += weight * (batch.tokens / max(seconds, 1e-6) - self.tokens_per_s)

    def _fail_what_waits(self) -> None:
        with self._changed:
            while self._lanes:
                batch = self._lanes.take(float("-inf"))
                for text in batch.texts:
                    text.owner.fail(EmbedfleetError("the replica is shutting down"))
            for text in self._trials:
                text.owner.fail(EmbedfleetError("the replica is shutting down"))
            self._trials.clear()
