"""What waits for one model leaves as one call: a hop between processes costs more than a short text.

Nothing waits long here. With few calls under way a request leaves at once; with more, within a few
milliseconds. Queueing, and the refusal of too much of it, stay with the replica's lanes.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from deployments.core.awaiting import in_time
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane

Call = Callable[[TokenBatch, Lane, float], Awaitable[Encoded]]

_CALLS_AT_ONCE = 2
_LINGER_S = 0.004
_GRACE_S = 0.1  # at a deadline the call's own error comes first, and says more
_MOST_TEXTS = 64
_MOST_TOKENS = 4_096
_SMALL_TEXTS = 8
_SMALL_TOKENS = 1_024


@dataclass(eq=False)
class _Part:
    """One request's share of a call."""

    batch: TokenBatch
    deadline: float
    answer: asyncio.Future[Encoded]


@dataclass(eq=False)
class _Queue:
    """What waits in one lane, and the calls under way."""

    parts: list[_Part] = field(default_factory=list)
    calls: int = 0
    timer: asyncio.TimerHandle | None = None


class Coalescer:
    """Merges small requests that arrive close together. For one asyncio loop."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._queues = {lane: _Queue() for lane in Lane}
        self._tasks: set[asyncio.Task[None]] = set()

    async def encode(self, batch: TokenBatch, lane: Lane, deadline: float) -> Encoded:
        """Returns the answer to this batch; errors as the call's own, DeadlineExceeded at its own
        deadline, and ModelUnavailable where something else has cancelled the call.

        Cancelling the last request of a call cancels the call.
        """
        if len(batch) > _SMALL_TEXTS or batch.tokens > _SMALL_TOKENS:
            return await self._call(batch, lane, deadline)
        loop = asyncio.get_running_loop()
        queue = self._queues[lane]
        part = _Part(batch, deadline, loop.create_future())
        queue.parts.append(part)
        if queue.timer is None:
            busy = queue.calls >= _CALLS_AT_ONCE
            # even at once means after what else is ready in this turn of the loop
            queue.timer = loop.call_later(_LINGER_S if busy else 0, self._flush, lane)
        return await in_time(part.answer, deadline + _GRACE_S)

    def _flush(self, lane: Lane) -> None:
        queue = self._queues[lane]
        if queue.timer is not None:
            queue.timer.cancel()
            queue.timer = None
        waiting = [part for part in queue.parts if not part.answer.done()]
        queue.parts = []
        while waiting:
            count = _how_many(waiting)
            queue.calls += 1
            # in no request's context: Serve cancels what was called in that of a client that has gone
            task = asyncio.get_running_loop().create_task(
                self._run(lane, waiting[:count]), context=contextvars.Context()
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            _cancel_when_all_have_gone(task, waiting[:count])
            waiting = waiting[count:]

    async def _run(self, lane: Lane, parts: list[_Part]) -> None:
        queue = self._queues[lane]
        try:
            batch = TokenBatch.concatenate([part.batch for part in parts])
            found = await self._call(batch, lane, max(part.deadline for part in parts))
            _hand_out(found, parts)
        except asyncio.CancelledError:
            _fail(parts, ModelUnavailable("the call was cancelled, send it again", None, 1.0))
            raise
        except Exception as error:
            _fail(parts, error)
        finally:
            queue.calls -= 1
            if queue.parts and queue.calls < _CALLS_AT_ONCE:
                self._flush(lane)


def _how_many(parts: list[_Part]) -> int:
    texts = tokens = 0
    for count, part in enumerate(parts):
        texts += len(part.batch)
        tokens += part.batch.tokens
        if count and (texts > _MOST_TEXTS or tokens > _MOST_TOKENS):
            return count
    return len(parts)


def _hand_out(found: Encoded, parts: list[_Part]) -> None:
    start = 0
    for part in parts:
        stop = start + len(part.batch)
        if not part.answer.done():
            part.answer.set_result(found.slice(start, stop))
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
