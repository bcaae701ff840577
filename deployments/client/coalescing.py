"""The layer that merges small calls which arrive close together into one.

A hop between processes costs more than a short text. No call waits long here: with few calls under way
it leaves at once; with more, within a few milliseconds. Queueing, and the refusal of too much of it, stay
with the replica's lanes.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import defaultdict
from dataclasses import dataclass, field, replace

from deployments.client.call import Call, Sender
from deployments.core.awaiting import in_time
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import Share

_CALLS_AT_ONCE = 2
_LINGER_S = 0.004
_GRACE_S = 0.1  # at a deadline the call's own error comes first, and says more
_MOST_TEXTS = 64
_MOST_TOKENS = 4_096
_SMALL_TEXTS = 8
_SMALL_TOKENS = 1_024


@dataclass(eq=False)
class _Part:
    """One call, as a part of the merged one."""

    call: Call
    answer: asyncio.Future[Encoded]


@dataclass(eq=False)
class _Queue:
    """The calls of one lane, space and tenant that wait, and how many merged ones are under way."""

    parts: list[_Part] = field(default_factory=list)
    calls: int = 0
    timer: asyncio.TimerHandle | None = None


class Coalescing:
    """Merges small calls of the same lane, space and tenant. For one asyncio loop."""

    def __init__(self, inner: Sender) -> None:
        self._inner = inner
        self._queues: dict[tuple[Lane, str, Share], _Queue] = defaultdict(_Queue)
        self._tasks: set[asyncio.Task[None]] = set()

    async def send(self, call: Call) -> Encoded:
        """As `Sender.send`; DeadlineExceeded at the call's own deadline, and ModelUnavailable if the
        merged call was cancelled by something else.

        Cancelling all parts of a merged call cancels it.
        """
        batch = call.batch
        if len(batch) > _SMALL_TEXTS or batch.tokens > _SMALL_TOKENS:
            return await self._inner.send(call)
        loop = asyncio.get_running_loop()
        queue = self._queues[call.lane, call.space, call.share]
        part = _Part(call, loop.create_future())
        queue.parts.append(part)
        if queue.timer is None:
            busy = queue.calls >= _CALLS_AT_ONCE
            # even "at once" means after what else is ready in this turn of the loop
            queue.timer = loop.call_later(_LINGER_S if busy else 0, self._flush, queue)
        return await in_time(part.answer, call.deadline + _GRACE_S)

    def _flush(self, queue: _Queue) -> None:
        if queue.timer is not None:
            queue.timer.cancel()
            queue.timer = None
        waiting = [part for part in queue.parts if not part.answer.done()]
        queue.parts = []
        while waiting:
            count = _how_many(waiting)
            queue.calls += 1
            # in no request's context: if a client goes, Serve cancels what was called in its context
            task = asyncio.get_running_loop().create_task(
                self._run(queue, waiting[:count]), context=contextvars.Context()
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            _cancel_when_all_have_gone(task, waiting[:count])
            waiting = waiting[count:]

    async def _run(self, queue: _Queue, parts: list[_Part]) -> None:
        try:
            _hand_out(await self._inner.send(_merged([part.call for part in parts])), parts)
        except asyncio.CancelledError:
            _fail(parts, ModelUnavailable("the call was cancelled, send it again", None, 1.0))
            raise
        except Exception as error:
            _fail(parts, error)
        finally:
            queue.calls -= 1
            if queue.parts and queue.calls < _CALLS_AT_ONCE:
                self._flush(queue)


def _merged(calls: list[Call]) -> Call:
    batch = TokenBatch.concatenate([call.batch for call in calls])
    return replace(calls[0], batch=batch, deadline=max(call.deadline for call in calls))


def _how_many(parts: list[_Part]) -> int:
    texts = tokens = 0
    for count, part in enumerate(parts):
        texts += len(part.call.batch)
        tokens += part.call.batch.tokens
        if count and (texts > _MOST_TEXTS or tokens > _MOST_TOKENS):
            return count
    return len(parts)


def _hand_out(answer: Encoded, parts: list[_Part]) -> None:
    start = 0
    for part in parts:
        stop = start + len(part.call.batch)
        if not part.answer.done():
            part.answer.set_result(answer.slice(start, stop))
        start = stop


def _fail(parts: list[_Part], error: Exception) -> None:
    for part in parts:
        if not part.answer.done():
            part.answer.set_exception(error)


def _cancel_when_all_have_gone(task: asyncio.Task[None], parts: list[_Part]) -> None:
    alive = len(parts)

    def gone(answer: asyncio.Future[Encoded]) -> None:
        nonlocal alive
        alive -= answer.cancelled()
        if not alive:
            task.cancel()

    for part in parts:
        part.answer.add_done_callback(gone)
