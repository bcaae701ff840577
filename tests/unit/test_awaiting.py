"""What becomes of several calls when one of them fails, and of one whose time is over."""

from __future__ import annotations

import asyncio

import pytest

from deployments.embedding.awaiting import gather_or_cancel


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
