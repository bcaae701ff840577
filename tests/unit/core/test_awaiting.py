"""What becomes of several calls when one of them fails, and of one whose time is over."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from deployments.core.awaiting import aside, gather_or_cancel, in_time
from deployments.core.errors import DeadlineExceeded


async def value_of(number, turns=0):
    for _ in range(turns):
        await asyncio.sleep(0)
    return number


async def test_results_come_in_the_order_of_the_calls():
    assert await gather_or_cancel(value_of(1, turns=3), value_of(2)) == [1, 2]


async def test_the_first_error_is_raised_itself_and_ends_the_others():
    ended = []

    async def fail():
        raise KeyError("first")

    async def other():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("other")

    with pytest.raises(KeyError, match="first"):
        await gather_or_cancel(other(), fail())
    assert ended == ["other"]


async def test_what_is_in_time_is_returned():
    assert await in_time(value_of(1), time.monotonic() + 60) == 1


@pytest.mark.parametrize("left_s", [0.01, -1.0])
async def test_what_is_late_is_ended(left_s):
    with pytest.raises(DeadlineExceeded, match="not answered within its deadline"):
        await in_time(asyncio.sleep(60), time.monotonic() + left_s)


async def test_a_calls_own_timeout_stays_its_own():
    async def fail():
        raise TimeoutError("a socket's")

    with pytest.raises(TimeoutError, match="a socket's"):
        await in_time(fail(), time.monotonic() + 60)


async def test_large_work_is_done_beside_the_loop():
    here = threading.current_thread()
    assert await aside(False, threading.current_thread) is here
    assert await aside(True, threading.current_thread) is not here
    assert await aside(True, divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await aside(True, divmod, 7, 0)
