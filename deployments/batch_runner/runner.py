"""Runs the batches of a store, some at a time.

There is one runner for a store (see `lease.py`). It can be cut off anywhere, and the next one goes on
from the parts that are done. It knows neither Ray nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from deployments.batch_runner.work import CANCELLED, PARTS_AT_ONCE, Answer, Paused, Tools, Work
from deployments.batches.lease import BEAT_S, VALID_S, Lease, LeaseLost
from deployments.batches.sharing import Queue, Turns
from deployments.batches.states import BATCH_PREFIX, COMPLETION_S, Batch, made_at
from deployments.batches.store import Store
from deployments.batches.threads import StoreThreads
from deployments.core.errors import StoreDamaged, StoreFailed, UnknownObject

log = logging.getLogger("ray.serve")
_PLACE_S = 30.0  # that a batch keeps its place while others wait
_TURN_S = 1.0
_STORE_FAILED_S = 10.0
_SWEEP_S = 3_600.0
_LONG_S = 3_600.0  # to read the input, or to write the results, of a large batch
_SUSPECT = 2  # starts without progress
_ALONE_S = 60.0
_STALLED_OWNERS = 16  # whose pausing batches leave others their turns; each batch takes some 6 MB
_DAMAGED_READS = 3


@dataclass(frozen=True)
class _Run:
    """A batch at work since a time. Its task ends once the batch is final, paused or cut off.

    One that has no place only writes its results: it was cancelled, or has expired, in the queue.
    """

    owner: str
    since: float
    work: Work
    task: asyncio.Task[None]
    has_place: bool = True


class BatchRunner:
    """Takes batches from the queue: owners take turns, and each one's oldest batch goes first."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        store: StoreThreads,
        answer: Answer,
        max_running: int,
        longest: int,
        keep_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``answer`` and ``longest`` are as in `Tools`. Batches are forgotten after ``keep_s``."""
        self._store = store
        self._most_pausing = _STALLED_OWNERS * max_running
        most = PARTS_AT_ONCE * (max_running + self._most_pausing)
        self._slowly = store.beside(most + 2, _LONG_S)  # the sweep, and one without a place
        self._for_lease = store.beside(1, VALID_S)
        self._lease = Lease()
        self._tools = Tools(store, self._slowly, self._lease, answer, longest, clock)
        self._max_running = max_running
        self._keep_s = keep_s
        self._clock = clock
        self._turns = Turns(max_running, _PLACE_S)
        self._runs: dict[str, _Run] = {}
        self._rest_until: dict[str, float] = {}
        self._damaged: Counter[str] = Counter()
        self._suspects: set[str] | None = None
        self._problem = ""

    async def run(self) -> None:
        """Runs batches until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_lease())
                group.create_task(self._keep_sweeping())
                group.create_task(self._keep_taking_turns())
        finally:
            await self._stand_by()

    async def _keep_lease(self) -> None:
        while True:
            try:
                await self._for_lease(self._lease.renew)
            except StoreFailed as error:
                self._warn(error)
            await asyncio.sleep(BEAT_S if self._lease.is_held else _TURN_S)

    async def _keep_sweeping(self) -> None:
        while True:
            if self._lease.is_held:
                try:
                    await self._slowly(Store.sweep, self._clock(), self._keep_s)
                except Exception:
                    log.exception("what has expired could not be deleted; it is tried again later")
            await asyncio.sleep(_SWEEP_S if self._lease.is_held else _TURN_S)

    async def _keep_taking_turns(self) -> None:
        while True:
            try:
                await (self._take_turn() if self._lease.is_held else self._stand_by())
            except StoreFailed as error:
                self._warn(error)
            await asyncio.sleep(_TURN_S)

    def _warn(self, error: StoreFailed) -> None:
        """Logs what keeps batches waiting, once."""
        if str(error) != self._problem:
            log.warning("batches wait: %s", error)
        self._problem = str(error)

    async def _take_turn(self) -> None:
        queue = await self._store(Store.queue)
        cancelled = await self._store(Store.cancellations)
        if self._suspects is None:
            self._suspects = await self._suspected(queue)
        self._problem = ""
        self._share_places(queue, self._suspects)
        self._end_one(queue, cancelled)
        for batch_id in cancelled & self._runs.keys():
            self._runs[batch_id].work.stop(CANCELLED)

    async def _suspected(self, queue: Queue) -> set[str]:
        """Returns the batches that were at work as runners died, again and again."""
        records = (self._store(Store.batch, owner, batch_id) for batch_id, owner in queue.items())
        batches = await asyncio.gather(*records, return_exceptions=True)
        return {b.id for b in batches if isinstance(b, Batch) and b.starts >= _SUSPECT}

    def _share_places(self, queue: Queue, suspects: set[str]) -> None:
        now = time.monotonic()
        waiting = self._of_owners_with_room(self._startable(queue, suspects, now))
        at_work = {b: run for b, run in self._runs.items() if run.has_place}
        running = {b: run.owner for b, run in at_work.items() if not run.work.is_pausing}
        since = {b: at_work[b].since for b in running}
        pausing = len(at_work) - len(running)
        ended = self._turns.ended(waiting, running, since, now)
        if ended is not None and pausing < self._most_pausing:
            self._runs[ended].work.pause()
            del running[ended]
        while (batch_id := self._turns.next(waiting, running, now)) is not None:
            running[batch_id] = owner = waiting[batch_id]
            self._start(owner, batch_id)
            del waiting[batch_id]
            waiting = self._of_owners_with_room(waiting)

    def _of_owners_with_room(self, waiting: dict[str, str]) -> dict[str, str]:
        """Returns the batches of owners that do not have as many at work as there are places.

        Those that pause count. Their last parts may wait long, for a model or for the owner's tokens.
        """
        at_work = Counter(run.owner for run in self._runs.values() if run.has_place)
        return {b: owner for b, owner in waiting.items() if at_work[owner] < self._max_running}

    def _start(self, owner: str, batch_id: str, *, has_place: bool = True) -> None:
        work = Work(self._tools)
        task = asyncio.create_task(self._run(work, owner, batch_id))
        self._runs[batch_id] = _Run(owner, time.monotonic(), work, task, has_place)

    def _end_one(self, queue: Queue, cancelled: set[str]) -> None:
        """Ends one batch that was cancelled or has expired in the queue. It needs no place."""
        if not all(run.has_place for run in self._runs.values()):
            return
        oldest = self._clock() - COMPLETION_S
        for batch_id, owner in queue.items():
            is_over = batch_id in cancelled or made_at(batch_id, BATCH_PREFIX) < oldest
            if is_over and self._may_start(batch_id):
                self._start(owner, batch_id, has_place=False)
                return

    def _may_start(self, batch_id: str) -> bool:
        is_resting = self._rest_until.get(batch_id, 0.0) > time.monotonic()
        return batch_id not in self._runs and not is_resting

    def _startable(self, queue: Queue, suspects: set[str], now: float) -> dict[str, str]:
        """Returns the batches of the queue that may start now.

        A suspect starts while no other batch does, for a while: else a batch that kills the runner would
        have those beside it suspected.
        """
        startable = {b: owner for b, owner in queue.items() if self._may_start(b)}
        suspects -= {
            batch_id
            for batch_id, run in self._runs.items()
            if run.work.has_progressed or now - run.since > _ALONE_S
        }
        if suspects & self._runs.keys():
            return {}
        first = next((b for b in startable if b in suspects), None)
        return {first: startable[first]} if first else startable

    async def _stand_by(self) -> None:
        """Stops all work: another runner has the lease."""
        tasks = [run.task for run in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._suspects = None

    async def _run(self, work: Work, owner: str, batch_id: str) -> None:
        """Runs a batch as far as it goes. What is left stays in the queue."""
        self._rest_until.pop(batch_id, None)
        try:
            ended = await work.run(owner, batch_id)
            log.info("%s is %s: %s", batch_id, ended.status, ended.request_counts)
        except Paused:
            log.info("%s waits for batches of others, and then goes on", batch_id)
        except UnknownObject:  # its retention is over
            with suppress(StoreFailed):
                await self._store(Store.dequeue, owner, batch_id)
        except StoreDamaged as error:  # the record of the batch itself
            await self._set_aside(owner, batch_id, error)
        except Exception as error:
            is_known = isinstance(error, (StoreFailed, LeaseLost))
            log.warning("%s waits, and goes on later: %s", batch_id, error, exc_info=not is_known)
            self._rest(batch_id)
        finally:
            self._runs.pop(batch_id, None)

    def _rest(self, batch_id: str) -> None:
        """Lets a batch wait that has failed, but of which the runner has not died."""
        self._rest_until[batch_id] = time.monotonic() + _STORE_FAILED_S
        if self._suspects is not None:
            self._suspects.discard(batch_id)

    async def _set_aside(self, owner: str, batch_id: str, error: StoreDamaged) -> None:
        """Takes a batch out of the queue once its record could not be read several times."""
        self._damaged[batch_id] += 1
        self._rest(batch_id)
        if self._damaged[batch_id] < _DAMAGED_READS:
            return
        log.error(
            "%s is given up, and its record kept in the store's `damaged`: %s", batch_id, error
        )
        with suppress(StoreFailed):
            await self._store(Store.set_aside, owner, batch_id)
