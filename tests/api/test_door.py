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
    return Door(create_app(FakeBackend()), max_requests=10)


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

    door = Door(slow, max_requests=10)
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

    door = Door(broken, max_requests=10)
    with pytest.raises(RuntimeError, match="broken"):
        await door({"type": "http", "path": "/"}, None, None)
    assert await door.close(SOON_S) == 0


@pytest.fixture
def crowded():
    """A door with its last place taken, and what lets those inside go."""
    go = asyncio.Event()
    app = create_app(FakeBackend())

    async def slow(scope, receive, send):
        if scope["path"] == "/slow":
            await go.wait()
        await app(scope, receive, send)

    return Door(slow, max_requests=1), go


async def test_one_too_many_is_told_when_to_come_back(crowded):
    door, go = crowded
    async with connect(door) as http:
        inside = asyncio.create_task(http.get("/slow"))
        await asyncio.sleep(SOON_S)
        refused = await http.post("/v1/embeddings", json={"input": "a text"})
        assert refused.status_code == 429
        assert refused.json()["error"]["message"].startswith("1 requests are under way")
        assert int(refused.headers["retry-after"]) >= 1
        for probe in ("/health", "/ready", "/metrics"):
            assert (await http.get(probe)).status_code == 200, probe
        go.set()
        assert (await inside).status_code == 404
        assert (await http.get("/v1/models")).status_code == 200
