"""Waits for several calls, for one call until its deadline, or for work that would block the loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from deployments.core.errors import DeadlineExceeded

T = TypeVar("T")
P = ParamSpec("P")


async def gather_or_cancel(*calls: Coroutine[Any, Any, T]) -> list[T]:
    """Returns the results in order. Raises the first error, and cancels the other calls."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def in_time(call: Awaitable[T], deadline: float) -> T:
    """Returns the result of a call; raises DeadlineExceeded at the deadline, by `time.monotonic`."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()) as limit:
            return await call
    except TimeoutError:
        if not limit.expired():
            raise
        raise DeadlineExceeded("the request was not answered within its deadline") from None


async def aside(large: bool, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
    """Returns what ``work`` returns. If it is ``large``, it runs in a thread.

    The event loop runs meanwhile, whenever the work releases the interpreter.
    """
    if large:
        return await asyncio.to_thread(work, *args, **more)
    return work(*args, **more)
