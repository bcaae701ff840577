"""The versions of one model: read once, waited for in the loop."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments.client.preprocessing import Preprocessor
from deployments.client.versions import Versions
from deployments.config.schema import ModelConfig
from deployments.core.errors import ModelUnavailable
from deployments.core.models.space import space_id
from deployments.wire.calls import OtherVersion
from testing.waiting import until
from tests.support.scripted import SPEC, Numbers, spec_of

PATIENCE_S = 10.0
OWN = ModelConfig(name=SPEC.name)
NEW = ModelConfig(name=SPEC.name, revision="f" * 40)
OTHER = OtherVersion(NEW, space_id(spec_of(NEW)))


class Loader:
    """Reads tokenizers; those of new versions wait until they are let go."""

    def __init__(self):
        self.loaded, self.spaces, self.go = [], [], threading.Event()

    def __call__(self, config, space=None):
        self.loaded.append(config)
        self.spaces.append(space)
        if config is not OWN:
            assert self.go.wait(PATIENCE_S)
        return Preprocessor(spec_of(config), Numbers())


@pytest.fixture
def loader():
    actual = Loader()
    yield actual
    actual.go.set()


def versions(loader, config=OWN):
    return Versions(config, loader)


def test_who_waits_for_a_model_takes_no_thread(loader):
    async def wait_and_work():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        actual = versions(loader, NEW)
        waiting = [asyncio.create_task(actual.ready(PATIENCE_S)) for _ in range(5)]
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S / 2):
            await asyncio.to_thread(loader.go.set)
            return await asyncio.gather(*waiting)

    assert len({version.space for version in asyncio.run(wait_and_work())}) == 1


async def test_who_has_waited_long_enough_is_told_so(loader):
    actual = versions(loader, NEW)
    for _ in range(2):  # the first does not end the wait of others
        with pytest.raises(ModelUnavailable, match="is loading"):
            await actual.ready(0.01)
    loader.go.set()
    assert (await actual.ready(PATIENCE_S)).space == OTHER.space


async def test_a_new_version_is_read_once_for_all_calls(loader):
    actual = versions(loader)
    await actual.ready(PATIENCE_S)
    moving = [asyncio.create_task(actual.move(OTHER, PATIENCE_S)) for _ in range(64)]
    await asyncio.sleep(0.05)
    loader.go.set()
    moved = await asyncio.gather(*moving)
    assert loader.loaded == [OWN, NEW]
    assert len({id(version) for version in moved}) == 1
    assert actual.latest is await actual.move(OTHER, PATIENCE_S) is moved[0]


async def test_a_new_version_is_read_by_its_space(loader):
    loader.go.set()
    actual = versions(loader)
    await actual.ready(PATIENCE_S)
    await actual.move(OTHER, PATIENCE_S)
    assert loader.spaces == [None, OTHER.space]


async def test_back_at_its_own_version_nothing_is_read(loader):
    actual = versions(loader)
    own = await actual.ready(PATIENCE_S)
    loader.go.set()
    await actual.move(OTHER, PATIENCE_S)
    assert await actual.move(OtherVersion(OWN, own.space), PATIENCE_S) is own is actual.latest
    assert loader.loaded == [OWN, NEW]


async def test_a_new_version_is_waited_for_until_the_deadline(loader):
    actual = versions(loader)
    own = await actual.ready(PATIENCE_S)
    with pytest.raises(ModelUnavailable, match="is loading"):
        await actual.move(OTHER, 0.01)
    assert actual.latest is own


async def test_files_that_are_not_what_the_replica_has_loaded(loader):
    loader.go.set()
    actual = versions(loader)
    await actual.ready(PATIENCE_S)
    with pytest.raises(ModelUnavailable, match="e5-small: its files have changed") as refused:
        await actual.move(OtherVersion(NEW, "another"), PATIENCE_S)
    assert refused.value.retry_after_s == 5.0
    actual.close()


async def test_a_version_that_could_not_be_read_is_read_again_when_it_is_met_again(loader):
    loader.go.set()
    actual = versions(loader)
    await actual.ready(PATIENCE_S)
    gone = OtherVersion(NEW, "gone")
    for times in (1, 2):
        with pytest.raises(ModelUnavailable, match="have changed"):
            await actual.move(gone, PATIENCE_S)
        await asyncio.to_thread(until, lambda: not reading(), PATIENCE_S)
        assert loader.loaded == [OWN, *[NEW] * times]


def reading():
    return [thread for thread in threading.enumerate() if thread.name == f"load-{SPEC.name}"]
