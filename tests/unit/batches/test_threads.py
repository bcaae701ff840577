"""Calls of a store that hangs, or that is away at first."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments.batches.store import Store, open_store
from deployments.batches.threads import StoreThreads
from deployments.core.errors import StoreFailed, StoreSilent, UnknownObject

SOON_S = 0.1


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def hung() -> Iterator[threading.Event]:
    """What hanging calls wait for, at most until the end of the test."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_call_has_the_store_and_its_arguments(store):
    threads = StoreThreads(lambda: store)
    assert await threads(Store.files, "owner") == []
    with pytest.raises(UnknownObject):
        await threads(Store.file, "owner", file_id="file-x")


async def test_a_store_that_hangs_is_an_error_that_names_it(store, hung):
    threads = StoreThreads(lambda: store, answer_s=SOON_S)
    await threads(Store.queue)
    with pytest.raises(StoreSilent) as silent:
        await threads.run(hung.wait)
    assert (silent.value.status, silent.value.code) == (503, "store_unavailable")
    assert silent.value.retry_after_s
    assert store._root in silent.value.message
    assert await threads(Store.files, "owner") == []  # other threads go on


async def test_a_store_that_hangs_takes_no_thread_of_the_event_loop(store, hung):
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    threads = StoreThreads(lambda: store, threads=2, answer_s=SOON_S)
    calls = [asyncio.ensure_future(threads.run(hung.wait)) for _ in range(5)]
    await asyncio.sleep(0)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 5) == 7
    assert [type(e) for e in await asyncio.gather(*calls, return_exceptions=True)] == [
        StoreSilent
    ] * 5


async def test_once_all_threads_hang_calls_are_refused_at_once_until_one_is_free(store, hung):
    threads = StoreThreads(lambda: store, threads=2, answer_s=SOON_S)
    other = threads.beside(1, 10.0)
    await asyncio.gather(*(threads.run(hung.wait) for _ in range(2)), return_exceptions=True)
    began = time.perf_counter()
    with pytest.raises(StoreSilent):
        await threads(Store.queue)
    assert time.perf_counter() - began < SOON_S
    assert await other(Store.queue) == {}
    hung.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await threads(Store.queue) == {}
                break
            except StoreSilent:
                await asyncio.sleep(0.01)


async def test_a_store_that_is_away_at_first_is_opened_later_and_once(store):
    opened = []

    def opening() -> Store:
        opened.append(len(opened))
        if len(opened) < 3:
            raise StoreFailed("no such bucket")
        return store

    threads = StoreThreads(opening)
    for _ in range(2):
        with pytest.raises(StoreFailed):
            await threads(Store.queue)
    for same in (threads, threads.beside(1, 1.0), threads):
        assert await same(Store.queue) == {}
    assert opened == [0, 1, 2]
