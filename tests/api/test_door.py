"""A router that is told to stop: what is inside is answered, nothing comes in."""

from __future__ import annotations

import asyncio

import pytest

from deployments.api.app import create_app
from deployments.api.door import Door

from .calls import connect
from .fake_backend import FakeBackend

SOON_S = 0.05


@pytest.fixture
def door() -> Door:
    return Door(create_app(FakeBackend()))


async def test_closed_it_answers_with_when_to_come_back(door):
    assert await door.close(SOON_S) == 0
    async with connect(door) as http:
        for answer in (await http.post("/v1/embeddings", json={}), await http.get("/ready")):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert "stopping" in answer.json()["error"]["message"]


async def test_a_probe_that_asks_whether_it_lives_is_answered(door):
    await door.close(SOON_S)
    async with connect(door) as http:
        assert (await http.get("/health")).status_code == 200


async def test_what_is_inside_is_waited_for():
    go = asyncio.Event()

    async def slow(scope, receive, send):
        await go.wait()

    door = Door(slow)
    calls = [asyncio.create_task(door({"type": "http", "path": "/"}, None, None)) for _ in "ab"]
    await asyncio.sleep(0)
    assert await door.close(SOON_S) == 2
    closing = asyncio.create_task(door.close(60))
    await asyncio.sleep(SOON_S)
    assert not closing.done()
    go.set()
    assert await closing == 0
    await asyncio.gather(*calls)


async def test_a_request_that_fails_is_outside_again():
    async def broken(scope, receive, send):
        raise RuntimeError("broken")

    door = Door(broken)
    with pytest.raises(RuntimeError, match="broken"):
        await door({"type": "http", "path": "/"}, None, None)
    assert await door.close(SOON_S) == 0
