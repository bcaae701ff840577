"""The work on one batch, part by part, until it is final, is paused or is cut off.

It may be begun again at any time, and goes on from the parts that are done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from deployments.batch_runner.lines import Line, answer_line, fault_line
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
from deployments.batches.lease import Lease, LeaseLost
from deployments.batches.states import Batch, Counts, Problem, Status
from deployments.batches.store import Store
from deployments.batches.threads import StoreThreads
from deployments.core.errors import StoreDamaged, StoreFailed, UnknownObject
from deployments.core.tenants.tenant import Tenant

log = logging.getLogger("ray.serve")
Answer = Callable[[bytes, Tenant], Awaitable[tuple[int, bytes]]]
_MOST_STARTS = 5
_IN_ORDER_S = 2.0  # to save a batch as the runner is stopped: Serve kills it soon
_STORE_GRACE_S = 3_600.0  # after a batch has expired, for a store that fails
PARTS_AT_ONCE = 2  # one is computed while the last lines of another come back
CANCELLED = Problem("batch_cancelled", "the batch was cancelled before this line was answered")
EXPIRED = Problem("batch_expired", "the batch expired before this line was answered")
_ENDS = {
    Status.IN_PROGRESS: Status.EXPIRED,
    Status.FINALIZING: Status.COMPLETED,
    Status.CANCELLING: Status.CANCELLED,
}


class Paused(Exception):
    """A batch has given up its place, and parts of it are left."""


@dataclass(frozen=True)
class Tools:
    """What the work on any batch needs.

    ``answer`` returns the status and the body of the answer to a line's body, for a tenant. ``slowly``
    has threads for what may take minutes: to read inputs, and to put results together. A line over
    ``longest`` bytes is not read. ``begun`` are the batches whose start in this process is counted.
    """

    store: StoreThreads
    slowly: StoreThreads
    lease: Lease
    answer: Answer
    longest: int
    clock: Callable[[], float]
    begun: set[str] = field(default_factory=set)


class Work:
    """One batch at work."""

    batch: Batch

    def __init__(self, tools: Tools) -> None:
        self.is_pausing = self.has_progressed = False
        self._tools = tools
        self._store = tools.store
        self._saving = asyncio.Lock()
        self._stopped = asyncio.Event()
        self._why = CANCELLED

    def stop(self, why: Problem) -> None:
        """Leaves the lines that have no answer yet without one."""
        if not self._stopped.is_set():
            self._why = why
            self._stopped.set()

    def pause(self) -> None:
        """Begins no further part."""
        self.is_pausing = True

    async def run(self, owner: str, batch_id: str) -> Batch:
        """Returns the batch in its final state, which is saved.

        Raises UnknownObject if it is gone, Paused, LeaseLost, StoreFailed.
        """
        self.batch = await self._store(Store.batch, owner, batch_id)
        try:
            if not self.batch.is_final:
                self.batch = await self._ended()
            await self._store(self._save_ended)
        except (asyncio.CancelledError, Paused, StoreFailed):
            await self._take_start_back()
            raise
        return self.batch

    async def _ended(self) -> Batch:
        try:
            await self._count_start()
            if self.batch.starts > _MOST_STARTS:
                return await self._given_up()
            return await self._finished()
        except Refused as refused:
            problems = refused.problems
        except UnknownObject:
            problems = (Problem("input_file_not_found", "the input file was deleted"),)
        except StoreFailed as error:
            is_late = self._tools.clock() > self.batch.expires_at + _STORE_GRACE_S
            if not is_late and not isinstance(error, StoreDamaged):
                raise
            problems = (Problem(error.code, str(error)),)
        except (LeaseLost, Paused):
            raise
        except Exception:
            log.exception("%s has failed", self.batch.id)
            problems = (Problem("internal_error", "internal error; the service's log has it"),)
        return self.batch.moved(Status.FAILED, self._tools.clock(), problems=problems)

    async def _count_start(self) -> None:
        if self.batch.id not in self._tools.begun:
            await self._save(replace(self.batch, starts=self.batch.starts + 1))
            self._tools.begun.add(self.batch.id)

    async def _take_start_back(self) -> None:
        """Work on the batch stops in order: the runner has not died of it."""
        if self.batch.is_final or not self.batch.starts or self.batch.id not in self._tools.begun:
            return
        with suppress(StoreFailed, LeaseLost, TimeoutError):
            async with asyncio.timeout(_IN_ORDER_S):
                await self._save(replace(self.batch, starts=self.batch.starts - 1))
            self._tools.begun.discard(self.batch.id)

    async def _given_up(self) -> Batch:
        """Returns a batch over which too many runners have died, with the results of its parts that are
        done.
        """
        message = (
            f"the process that runs batches has died {_MOST_STARTS} times at work on this one; the "
            "service's log may say why. Split the file to find the line"
        )
        problem = Problem("runner_died", message)
        saved = await self._store(Store.plan, self.batch.id)
        if saved is None or self.batch.starts > _MOST_STARTS + 1:  # this has killed a runner, too
            return self.batch.moved(Status.FAILED, self._tools.clock(), problems=(problem,))
        batch = await self._assembled(Plan.from_dict(saved), problem)
        return batch.moved(Status.FAILED, self._tools.clock(), problems=(problem,))

    async def _finished(self) -> Batch:
        """Returns the batch in its final state, with its results in the store."""
        plan = await self._plan()
        if self.batch.status is Status.VALIDATING:
            counts = Counts(plan.total)
            await self._move(Status.IN_PROGRESS, self._tools.clock(), request_counts=counts)
        if self.batch.status is Status.IN_PROGRESS:
            await self._answer_parts(plan)
        unfinished = EXPIRED if self.batch.status is Status.IN_PROGRESS else CANCELLED
        batch = await self._assembled(plan, unfinished)
        return batch.moved(_ENDS[batch.status], self._tools.clock())

    async def _assembled(self, plan: Plan, unfinished: Problem) -> Batch:
        now, check = self._tools.clock(), self._tools.lease.check
        return await self._tools.slowly(assemble, self.batch, plan, unfinished, now, check)

    async def _plan(self) -> Plan:
        if (saved := await self._store(Store.plan, self.batch.id)) is not None:
            return Plan.from_dict(saved)
        plan = await self._tools.slowly(make_plan, self.batch, self._tools.longest)
        await self._store(Store.save_plan, self.batch.id, plan.as_dict())
        return plan

    async def _answer_parts(self, plan: Plan) -> None:
        """Answers the lines of the parts that are not done, unless it is stopped, and moves the batch on.

        One that expires stays in progress until its results are there. Raises Paused.
        """
        done = set(await self._store(Store.parts, self.batch.id))
        left = (n for n in range(len(plan.parts)) if n not in done)
        seconds = max(0.0, self.batch.expires_at - self._tools.clock())
        if not seconds:
            self.stop(EXPIRED)
        expiry = asyncio.get_running_loop().call_later(seconds, self.stop, EXPIRED)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PARTS_AT_ONCE):
                    group.create_task(self._answer_some(plan, left))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        finally:
            expiry.cancel()
        if not self._stopped.is_set() and next(left, None) is not None:
            raise Paused
        cancelled_at = await self._store(Store.cancelled_at, self.batch.id)
        if cancelled_at is not None:
            await self._move(Status.CANCELLING, cancelled_at)
        elif not self._stopped.is_set():
            await self._move(Status.FINALIZING, self._tools.clock())

    async def _answer_some(self, plan: Plan, left: Iterator[int]) -> None:
        """Answers parts that are left, one after another."""
        while not self._stopped.is_set() and not self.is_pausing:
            if (number := next(left, None)) is None:
                return
            lines = await self._tools.slowly(_listed, self.batch, plan, plan.parts[number])
            results = await self._answer_lines(lines)
            await self._store(Store.save_part, self.batch.id, number, results)
            await self._count(results)

    async def _answer_lines(self, lines: list[Line]) -> list[bytes]:
        """Returns the results of lines, in order; those without an answer when it is stopped have a
        fault.
        """
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self._answer_line(line)) for line in lines]
        stopping: asyncio.Future[Any] = loop.create_task(self._stopped.wait())
        try:
            answered: asyncio.Future[Any] = asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.wait({answered, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, stopping):
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)
        return [
            FAILED + fault_line(self.batch.id, line, line.fault or self._why)
            if task.cancelled()
            else task.result()
            for line, task in zip(lines, tasks, strict=True)
        ]

    async def _answer_line(self, line: Line) -> bytes:
        if line.fault is not None:
            return FAILED + fault_line(self.batch.id, line, line.fault)
        status, body = await self._tools.answer(line.body, self.batch.rights.tenant)
        kind = DONE if status == 200 else FAILED
        return kind + answer_line(self.batch.id, line, status, body)

    async def _count(self, results: list[bytes]) -> None:
        """Adds the results of a part that is done to the counts, which the batch's readers see."""
        completed = sum(result.startswith(DONE) for result in results)
        async with self._saving:  # what is saved last must be the newest
            counts = self.batch.request_counts + Counts(0, completed, len(results) - completed)
            await self._save(replace(self.batch, request_counts=counts, starts=0))
            self.has_progressed = True

    async def _move(self, status: Status, now: float, **changes: Any) -> None:
        await self._save(self.batch.moved(status, now, **changes))

    async def _save(self, batch: Batch) -> None:
        self.batch = batch
        await self._store(self._save_checked)

    def _save_checked(self, store: Store) -> None:
        self._tools.lease.check()
        store.save_batch(self.batch)

    def _save_ended(self, store: Store) -> None:
        self._save_checked(store)
        store.dequeue(self.batch.owner, self.batch.id)


def _listed(store: Store, batch: Batch, plan: Plan, part: Part) -> list[Line]:
    return list(lines_of(store, batch, plan, part))
