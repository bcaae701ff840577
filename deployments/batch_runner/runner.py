"""Runs the batches of a store, some at a time, each part by part.

There is one runner for a store (see `lease.py`). It can be cut off anywhere, and the next one goes on
from the parts that are done. It knows neither Ray nor HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from deployments.batch_runner.lines import Fault, Line, answer_line, fault_line
from deployments.batch_runner.parts import (
    DONE,
    FAILED,
    Part,
    Plan,
    Refused,
    assemble,
    lines_of,
    make_plan,
)
from deployments.batches.lease import Lease
from deployments.batches.states import (
    BATCH_PREFIX,
    Batch,
    Counts,
    Problem,
    Status,
    made_at,
)
from deployments.batches.store import Store
from deployments.core.errors import StoreFailed, UnknownObject
from deployments.core.tenants.tenant import Tenant

log = logging.getLogger("ray.serve")
Answer = Callable[[bytes, Tenant], Awaitable[tuple[int, bytes]]]

_TURN_S = 1.0
_PARTS_AT_ONCE = 2  # one is computed while the last lines of another come back
_STORE_FAILED_S = 10.0
_SWEEP_S = 3_600.0
_CREATION_S = 60.0
_CANCELLED = Fault("batch_cancelled", "the batch was cancelled before this line was answered")
_EXPIRED = Fault("batch_expired", "the batch expired before this line was answered")


@dataclass
class _Run:
    """A batch at work. Once ``stopped`` is set, no further line is answered, for the reason ``why``."""

    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    why: Fault = _CANCELLED
    input_file_id: str | None = None
    task: asyncio.Task[None] | None = None

    def stop(self, why: Fault) -> None:
        """Leaves the lines that have no answer yet without one."""
        if not self.stopped.is_set():
            self.why = why
            self.stopped.set()


class BatchRunner:
    """Takes batches from the queue, the oldest first."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        store: Store,
        answer: Answer,
        max_running: int,
        longest: int,
        keep_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``answer`` returns the status and the body of the answer to a line's body, for a tenant. A line
        over ``longest`` bytes is not read. Batches are forgotten after ``keep_s``.
        """
        self._store = store
        self._answer = answer
        self._max_running = max_running
        self._longest = longest
        self._keep_s = keep_s
        self._clock = clock
        self._lease = Lease(store)
        self._own_thread = ThreadPoolExecutor(1, "lease")  # else it would wait for slow work
        self._runs: dict[str, _Run] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Runs batches until it is cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    is_held = await loop.run_in_executor(self._own_thread, self._lease.renew)
                    await (self._take_turn() if is_held else self._stand_by())
                except StoreFailed as error:
                    log.warning("batches wait: %s", error)
                await asyncio.sleep(_TURN_S)
        finally:
            await self._stand_by()

    async def _take_turn(self) -> None:
        queue = await asyncio.to_thread(self._store.queue)
        cancelled = await asyncio.to_thread(self._store.cancellations)
        for batch_id in queue:
            if batch_id not in self._runs and len(self._runs) < self._max_running:
                run = self._runs[batch_id] = _Run()
                run.task = asyncio.get_running_loop().create_task(self._run(batch_id, run))
        for batch_id in cancelled & self._runs.keys():
            self._runs[batch_id].stop(_CANCELLED)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(self._keep_sweeping())

    async def _stand_by(self) -> None:
        """Stops all work: another runner has the lease."""
        tasks = [run.task for run in self._runs.values() if run.task]
        tasks += [self._sweeping] if self._sweeping else []
        self._sweeping = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_sweeping(self) -> None:
        while True:
            in_use = {run.input_file_id for run in self._runs.values() if run.input_file_id}
            with suppress(StoreFailed):
                await asyncio.to_thread(self._store.sweep, self._clock(), in_use, self._keep_s)
            await asyncio.sleep(_SWEEP_S)

    async def _run(self, batch_id: str, run: _Run) -> None:
        """Runs a batch as far as it goes. What is left stays in the queue."""
        try:
            owner = await asyncio.to_thread(self._store.owner_of, batch_id)
            if owner is not None:
                await self._run_of(owner, batch_id, run)
        except StoreFailed as error:
            log.warning("%s waits, and then goes on where it was: %s", batch_id, error)
            await asyncio.sleep(_STORE_FAILED_S)
        finally:
            self._runs.pop(batch_id, None)

    async def _run_of(self, owner: str, batch_id: str, run: _Run) -> None:
        try:
            batch = await asyncio.to_thread(self._store.batch, owner, batch_id)
        except UnknownObject:  # its creation goes on, or was cut off
            if self._clock() - made_at(batch_id, BATCH_PREFIX) > _CREATION_S:
                await asyncio.to_thread(self._store.dequeue, batch_id)
            return
        run.input_file_id = batch.input_file_id
        try:
            if not batch.is_final:
                batch = await self._finished(owner, batch, run)
        except Refused as refused:
            batch = batch.moved(Status.FAILED, self._clock(), problems=refused.problems)
        except UnknownObject:
            problem = Problem("input_file_not_found", "the input file was deleted")
            batch = batch.moved(Status.FAILED, self._clock(), problems=(problem,))
        except StoreFailed:
            raise
        except Exception:
            log.exception("%s has failed", batch_id)
            problem = Problem("internal_error", "internal error; the service's log has it")
            batch = batch.moved(Status.FAILED, self._clock(), problems=(problem,))
        await asyncio.to_thread(self._store.save_batch, owner, batch)
        await asyncio.to_thread(self._store.dequeue, batch_id)
        log.info("%s is %s: %s", batch_id, batch.status, batch.request_counts)

    async def _finished(self, owner: str, batch: Batch, run: _Run) -> Batch:
        """Returns the batch in its final state, with its results in the store."""
        plan = await self._plan(batch)
        if batch.status is Status.VALIDATING:
            counts = Counts(plan.total)
            batch = batch.moved(Status.IN_PROGRESS, self._clock(), request_counts=counts)
            await asyncio.to_thread(self._store.save_batch, owner, batch)
        if batch.status is Status.IN_PROGRESS:
            batch = await self._answer_parts(owner, batch, plan, run)
            batch = await asyncio.to_thread(self._stopped_or_finalizing, owner, batch, run)
        fault = _EXPIRED if batch.status is Status.IN_PROGRESS else _CANCELLED
        now = self._clock()
        batch = await asyncio.to_thread(assemble, self._store, owner, batch, plan, fault, now)
        ends = {
            Status.IN_PROGRESS: Status.EXPIRED,
            Status.FINALIZING: Status.COMPLETED,
            Status.CANCELLING: Status.CANCELLED,
        }
        return batch.moved(ends[batch.status], self._clock())

    async def _plan(self, batch: Batch) -> Plan:
        if (saved := await asyncio.to_thread(self._store.plan, batch.id)) is not None:
            return Plan.from_dict(saved)
        plan = await asyncio.to_thread(make_plan, self._store, batch, self._longest)
        await asyncio.to_thread(self._store.save_plan, batch.id, plan.as_dict())
        return plan

    def _stopped_or_finalizing(self, owner: str, batch: Batch, run: _Run) -> Batch:
        """Returns a batch whose lines were answered, as far as they will be, in its next state.

        One that expires stays in progress until its results are there.
        """
        if (cancelled_at := self._store.cancelled_at(batch.id)) is not None:
            batch = batch.moved(Status.CANCELLING, cancelled_at)
        elif not run.stopped.is_set():
            batch = batch.moved(Status.FINALIZING, self._clock())
        self._store.save_batch(owner, batch)
        return batch

    async def _answer_parts(self, owner: str, batch: Batch, plan: Plan, run: _Run) -> Batch:
        """Answers the lines of the parts that are not done, unless it is stopped, and counts them."""
        done = set(await asyncio.to_thread(self._store.parts, batch.id))
        left = (n for n in range(len(plan.parts)) if n not in done)
        progress = _Progress(self._store, owner, batch)
        seconds = max(0.0, batch.expires_at - self._clock())
        if not seconds:
            run.stop(_EXPIRED)
        expiry = asyncio.get_running_loop().call_later(seconds, run.stop, _EXPIRED)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_PARTS_AT_ONCE):
                    group.create_task(self._answer_some(batch, plan, left, progress, run))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            expiry.cancel()
        return progress.batch

    async def _answer_some(
        self,
        batch: Batch,
        plan: Plan,
        left: Iterator[int],
        progress: _Progress,
        run: _Run,
    ) -> None:
        for number in left:
            if run.stopped.is_set():
                return
            part = plan.parts[number]
            lines = await asyncio.to_thread(_listed, self._store, batch, plan, part)
            results = await self._answer_lines(batch, lines, run)
            await asyncio.to_thread(self._store.save_part, batch.id, number, results)
            await progress.add(results)

    async def _answer_lines(self, batch: Batch, lines: list[Line], run: _Run) -> list[bytes]:
        """Returns the results of lines, in order; those without an answer when it is stopped have a
        fault.
        """
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._answer_line(batch, line)) for line in lines]
        stopping: asyncio.Future[Any] = loop.create_task(run.stopped.wait())
        try:
            answered: asyncio.Future[Any] = asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.wait({answered, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
        return [
            FAILED + fault_line(batch.id, line, line.fault or run.why)
            if task.cancelled()
            else task.result()
            for line, task in zip(lines, tasks, strict=True)
        ]

    async def _answer_line(self, batch: Batch, line: Line) -> bytes:
        if line.fault is not None:
            return FAILED + fault_line(batch.id, line, line.fault)
        status, body = await self._answer(line.body, batch.rights.tenant)
        kind = DONE if status == 200 else FAILED
        return kind + answer_line(batch.id, line, status, body)


class _Progress:
    """The counts of a batch at work, as its readers see them."""

    def __init__(self, store: Store, owner: str, batch: Batch) -> None:
        self._store = store
        self._owner = owner
        self.batch = batch
        self._lock = asyncio.Lock()

    async def add(self, results: list[bytes]) -> None:
        """Adds the results of a part that is done."""
        completed = sum(result.startswith(DONE) for result in results)
        async with self._lock:  # what is saved last must be the newest
            counts = self.batch.request_counts + Counts(0, completed, len(results) - completed)
            self.batch = replace(self.batch, request_counts=counts)
            await asyncio.to_thread(self._store.save_batch, self._owner, self.batch)


def _listed(store: Store, batch: Batch, plan: Plan, part: Part) -> list[Line]:
    return list(lines_of(store, batch, plan, part))
