"""Downloads of files whose clients read nothing, and those of others beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from starlette.types import ASGIApp, Message

from deployments.api import downloads
from deployments.api.auth import ApiKeys
from deployments.api.middleware import AdmissionMiddleware
from deployments.batches.store import Store, open_store
from tests.api.calls import app_of, check_refusal, connect, embed, ok
from tests.api.fake_backend import FakeBackend
from tests.api.test_batches import FILES, api_batches, upload

SHARES = {"a": 16, "b": 8, "c": 4, "d": 2, "e": 1, "f": 1}  # of the 32 places


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def app(store) -> ASGIApp:
    """An app with a key for each letter."""
    return app_of(FakeBackend(), ApiKeys([*SHARES, "g"]), api_batches(store))


async def sent(app: ASGIApp, content: bytes, key: str = "") -> str:
    """Returns the path of a new file's content."""
    async with connect(app) as http:
        http.headers["authorization"] = f"Bearer {key}"
        return f"{FILES}/{ok(await upload(http, content))['id']}/content"


@asynccontextmanager
async def stuck(
    app: ASGIApp, path: str, count: int, key: str = ""
) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Has clients begin this many downloads, of which they read nothing."""
    begun = asyncio.Semaphore(0)

    async def send_nothing(message: Message) -> None:
        begun.release()
        await asyncio.Event().wait()

    headers = [(b"authorization", f"Bearer {key}".encode())]
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b""}
    tasks = [
        asyncio.create_task(app(dict(scope), asyncio.Event().wait, send_nothing))
        for _ in range(count)
    ]
    try:
        for _ in tasks:
            await asyncio.wait_for(begun.acquire(), 5)
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_owner_leaves_downloads_for_others(app):
    path, other = await sent(app, b"x", "a"), await sent(app, b"y", "b")
    async with connect(app) as http:
        http.headers["authorization"] = "Bearer a"
        async with stuck(app, path, 16, "a"):
            refused = await http.get(path)
            check_refusal(refused, 429, None, "overloaded")
            assert int(refused.headers["retry-after"]) > 0
            answer = await http.get(other, headers={"authorization": "Bearer b"})
            assert answer.content == b"y"
        assert (await http.get(path)).content == b"x"


async def test_a_download_takes_no_place_of_online_requests(store):
    admission = AdmissionMiddleware(app_of(FakeBackend(), batches=api_batches(store)), 1)
    path = await sent(admission, b"x" * 100_000)
    async with connect(admission) as http:
        async with stuck(admission, path, 32):
            await embed(http, input="x")
            check_refusal(await http.get(path), 429, None, "overloaded")
        assert (await http.get(path)).content == b"x" * 100_000


async def test_of_many_owners_that_read_nothing_one_makes_room_for_another(app, monkeypatch):
    path = await sent(app, b"y", "g")
    async with AsyncExitStack() as stack, connect(app) as http:
        http.headers["authorization"] = "Bearer g"
        tasks = []
        for key, count in SHARES.items():
            theirs = await sent(app, b"x", key)
            tasks += await stack.enter_async_context(stuck(app, theirs, count, key))
        check_refusal(await http.get(path), 429, None, "overloaded")
        monkeypatch.setattr(downloads, "_STANDS_STILL_S", 0.05)
        await asyncio.sleep(0.1)
        assert (await http.get(path)).content == b"y"
        assert sum(task.done() for task in tasks) == 1


async def test_an_owner_over_its_share_costs_others_none_of_their_downloads(app, monkeypatch):
    monkeypatch.setattr(downloads, "_STANDS_STILL_S", 0.0)
    path, other = await sent(app, b"x", "a"), await sent(app, b"y", "b")
    async with (
        stuck(app, other, 1, "b") as theirs,
        stuck(app, path, 15, "a"),
        stuck(app, path, 10, "a"),  # each of these ends one of its own
        connect(app) as http,
    ):
        http.headers["authorization"] = "Bearer a"
        assert (await http.get(path)).content == b"x"
        assert not theirs[0].done()


async def test_a_client_that_reads_keeps_its_download(app, monkeypatch):
    monkeypatch.setattr(downloads, "_STANDS_STILL_S", 0.2)
    path, read = await sent(app, b"x" * 270_000, "a"), []

    async def send_slowly(message: Message) -> None:
        await asyncio.sleep(0.15)
        read.append(message.get("body", b""))

    headers = [(b"authorization", b"Bearer a")]
    scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "query_string": b""}
    slow = asyncio.create_task(app(scope, asyncio.Event().wait, send_slowly))
    async with stuck(app, path, 15, "a"), connect(app) as http:
        http.headers["authorization"] = "Bearer a"
        await asyncio.sleep(0.3)
        assert (await http.get(path)).status_code == 200
        await asyncio.wait_for(slow, 5)
        assert sum(map(len, read)) == 270_000


async def test_a_download_has_a_deadline(app, monkeypatch):
    monkeypatch.setattr("deployments.api.uploads._SETUP_S", 0.2)
    path = await sent(app, b"x", "a")
    async with stuck(app, path, 1, "a") as tasks:
        await asyncio.wait_for(tasks[0], 5)


async def test_a_download_whose_time_is_just_up_can_be_given_up():
    place = downloads.Place("a")

    async def given_up_late() -> None:
        async with place.timeout:
            place.timeout.reschedule(asyncio.get_running_loop().time())
            try:
                await asyncio.Event().wait()
            finally:
                place.give_up()

    with pytest.raises(TimeoutError):
        await given_up_late()
