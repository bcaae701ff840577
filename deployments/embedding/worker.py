"""The loops around an engine: take a micro-batch, run it, hand out the vectors, again.

Forward passes have threads of their own, one each stream, so an event loop that feeds them is never
blocked. Knows nothing of Ray or asyncio; answers arrive in `concurrent.futures.Future` objects.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from deployments.embedding.answers import Answers
from deployments.embedding.batch import Encoded, TokenBatch, Vectors
from deployments.embedding.errors import EmbedfleetError, Overloaded
from deployments.embedding.job import Job
from deployments.embedding.lanes import Lane, LaneLimits, MicroBatch, Waiting
from deployments.embedding.observing import Nobody, Notes, Observer
from deployments.embedding.passes import any_failed, run_pass
from deployments.embedding.turns import Turns

if TYPE_CHECKING:
    from deployments.embedding.engine import Engine

log = logging.getLogger(__name__)
_TELLING_SHARE = 0.25
_CLOSE_S = 1.0


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
        """``max_wait_s`` bounds each lane: work that would wait longer is refused.

        ``tokens_per_s`` is the speed of all streams together.
        """
        self._engine = engine
        self._limits = limits
        self._max_wait_s = dict(max_wait_s)
        self.tokens_per_s = tokens_per_s
        self.streams = limits.streams
        self._turns = Turns(limits)
        self._changed = threading.Condition()
        self._notes = Notes(observer or Nobody(), self._all_waiting)
        self._answers = Answers(self._notes)
        self._stopping = False
        self._broken: BaseException | None = None
        self.last_success: float | None = None
        self._open_loops = self.streams
        self.consecutive_failures = 0
        self._threads = [
            threading.Thread(target=self._loop, name=f"engine-{number}", daemon=True)
            for number in range(self.streams)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        batch: TokenBatch,
        lane: Lane,
        timeout_s: float,
        begin: Callable[[int | None], None] | None = None,
    ) -> Future[Encoded]:
        """Queues a call's texts; the future gives their vectors in order.

        Cancelling the future drops what is not yet computed. With ``begin`` it is a trial: each text
        has a forward pass of its own, and ``begin`` is told its row before that and None after. Raises
        Overloaded, with the seconds until the lane's backlog is worked off, when the lane is full.
        """
        now = time.monotonic()
        job = Job(batch, lane, self._engine.dimension, now, begin)
        with self._changed:
            self._refuse_if_broken()
            if begin is None:
                self._refuse_if_full(lane, len(batch), batch.tokens)
                self._turns.lanes.put(job, batch.lengths.tolist(), lane, now, now + timeout_s)
            else:
                self._turns.try_alone(job, now, now + timeout_s)
            self._wake_one()
        if not len(batch):
            job.finish_if_settled(now)
        return job.future

    def speed(self, lane: Lane) -> float:
        """Returns the tokens/s that a lane may reach, in the streams that it may have."""
        return self.tokens_per_s * self._limits.streams_of(lane) / self.streams

    def waiting(self, lane: Lane) -> tuple[int, int]:
        """Returns how many texts and tokens wait in a lane."""
        with self._changed:
            return self._turns.lanes.waiting_texts(lane), self._turns.lanes.waiting_tokens(lane)

    def _all_waiting(self) -> dict[Lane, tuple[int, int]]:
        return {lane: self.waiting(lane) for lane in Lane}

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ends the loops after the running passes; what still waits is answered with an error."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    @property
    def alive(self) -> bool:
        """Whether all loops run, and their answers are handed out."""
        running = all(thread.is_alive() for thread in self._threads)
        return running and self._answers.broken is None

    @property
    def thread_ids(self) -> set[int]:
        """The system's ids of the threads that run the engine."""
        return {thread.native_id for thread in self._threads if thread.native_id is not None}

    @property
    def pass_s(self) -> float:
        """Seconds that the oldest running forward pass has taken so far; 0 between passes."""
        with self._changed:
            since = self._turns.running
        return time.monotonic() - min(since) if since else 0.0

    def _refuse_if_broken(self) -> None:
        broken = self._broken or self._answers.broken
        if broken is not None or self._stopping:
            raise EmbedfleetError(f"the engine's loop has ended: {broken or 'shutting down'}")

    def _refuse_if_full(self, lane: Lane, texts: int, tokens: int) -> None:
        waiting = self._turns.lanes.waiting_tokens(lane)
        speed = self.speed(lane)
        room = max(4.0 * self._limits.token_budget, self._max_wait_s[lane] * speed)
        if waiting and waiting + tokens > room:
            self._notes.refused(lane, texts)
            raise Overloaded(
                f"{waiting} tokens already wait in the {lane} lane; retry later, or add replicas",
                retry_after_s=waiting / speed,
            )

    def _loop(self) -> None:
        batch: MicroBatch[Job] | None = None
        try:
            while (batch := self._next(batch)) is not None:
                self._answers.drop(batch)
                if batch.texts:
                    self._run(batch)
        except BaseException as error:
            log.exception("the engine's loop has died; this replica will be replaced")
            self._broken = error
            for text in batch.all_texts if batch else ():
                text.owner.fail(EmbedfleetError(f"the engine's loop has died: {error!r}"))
        finally:
            self._end(batch)

    def _next(self, last: MicroBatch[Job] | None) -> MicroBatch[Job] | None:
        """Waits for the next pass of a thread whose last one has ended; None: there is none."""
        with self._changed:
            if last is not None:
                self._turns.ended(last)
            while not (self._is_ending or self._turns.may_begin()):
                self._changed.wait()
            if self._is_ending:
                return None
            batch = self._turns.take(time.monotonic())
            self._wake_one()
            return batch

    def _wake_one(self) -> None:
        if self._turns.may_begin():
            self._changed.notify()

    @property
    def _is_ending(self) -> bool:
        return self._stopping or self._broken is not None

    def _run(self, batch: MicroBatch[Job]) -> None:
        self._notes.pass_begins()
        with self._changed:
            has_all_threads = len(batch.texts) == len(self._turns.running) == 1 < self.streams
        started = time.monotonic()
        outcome = self._pass(batch.texts)
        seconds = time.monotonic() - started
        with self._changed:
            if any_failed(outcome):
                self.consecutive_failures += 1
            else:
                self._succeeded(batch, seconds, has_all_threads)
        self._answers.settle(batch, outcome, started, seconds)

    def _pass(self, texts: list[Waiting[Job]]) -> list[Vectors | EmbedfleetError]:
        ids = [text.owner.batch.text(text.row) for text in texts]
        begin = texts[0].owner.begin
        if begin is None:
            return run_pass(self._engine, ids)
        try:
            begin(texts[0].row)
        except Exception as error:
            return [EmbedfleetError(f"a text that may kill replicas cannot be tried: {error}")]
        outcome = run_pass(self._engine, ids)
        with suppress(Exception):  # if it cannot be noted, the text has its vector nevertheless
            begin(None)  # what dies from here on has not died of it
        return outcome

    def _succeeded(self, batch: MicroBatch[Job], seconds: float, has_all_threads: bool) -> None:
        self.consecutive_failures = 0
        self.last_success = time.monotonic()
        # a small pass tells what a pass costs, not how fast the engine is when there is enough to do;
        # one that ran alone does not tell how fast several are
        share = min(1.0, batch.cost / self._limits.token_budget)
        tells = (share >= _TELLING_SHARE or batch.leaves_some) and not has_all_threads
        weight = 0.2 * share * tells * len(self._turns.running) / self.streams
        speed = self.streams * batch.tokens / max(seconds, 1e-6)
        self.tokens_per_s += weight * (speed - self.tokens_per_s)

    def _end(self, last: MicroBatch[Job] | None) -> None:
        """Lets the other loops end too; the last of them waits until all is answered."""
        with self._changed:
            if last is not None:
                self._turns.ended(last)
            for job in self._turns.clear():
                job.fail(EmbedfleetError("the replica is shutting down"))
            self._changed.notify_all()
            self._open_loops -= 1
            is_last = not self._open_loops
        if is_last:
            self._answers.close()
            self._notes.close(_CLOSE_S)
