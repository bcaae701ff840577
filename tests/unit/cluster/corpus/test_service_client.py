"""A worker's client moves on to a service that is started again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from ray.serve.exceptions import RayServeException

from cluster.corpus.encode import service_client as target
from cluster.corpus.encode.service_client import ServiceClient
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane

CONFIG = SimpleNamespace(name="m", deployment_name="encoder-m")


class Client:
    """Stands for an `EncoderClient`: answers once its service answers."""

    def __init__(self, config, handle):
        self.answered = asyncio.get_running_loop().create_future()
        self.is_closed = False

    async def encode_tokens(self, batch, lane, timeout_s):
        return await self.answered

    def close(self):
        self.is_closed = True


class Cluster:
    """Stands for Ray: which Serve runs, and whether it has the application."""

    def __init__(self):
        self.instance = "first"
        self.is_deployed = True

    def handle(self, deployment, app):
        if self.instance is None:
            raise RayServeException("no Serve")
        if not self.is_deployed:
            raise KeyError("not deployed")
        return SimpleNamespace(encode=f"{deployment} of {self.instance}")


@pytest.fixture
def cluster(monkeypatch):
    cluster = Cluster()
    monkeypatch.setattr(target, "serve_instance", lambda: cluster.instance)
    monkeypatch.setattr(target, "forget_ended_serve", lambda: None)
    monkeypatch.setattr(target, "EncoderClient", Client)
    monkeypatch.setattr(target.serve, "get_deployment_handle", cluster.handle)
    return cluster


def calling(client, timeout_s=5.0):
    return asyncio.create_task(client.encode_tokens(None, Lane.OFFLINE, timeout_s))


async def test_a_call_to_a_service_that_has_ended_fails_once_another_runs(cluster):
    client = ServiceClient(CONFIG, "app")
    first, call = client._client, calling(client)
    for cluster.instance in ("first", None):
        await client.follow()
        assert client._client is first
        assert not call.done()
    cluster.instance = "second"
    await client.follow()
    with pytest.raises(ModelUnavailable, match="started again"):
        await asyncio.wait_for(call, 5)
    assert first.is_closed
    again = calling(client)
    client._client.answered.set_result("vectors")
    assert await again == "vectors"


async def test_an_application_that_is_not_deployed_yet_is_looked_for_again(cluster):
    client = ServiceClient(CONFIG, "app")
    first, call = client._client, calling(client)
    cluster.instance, cluster.is_deployed = "second", False
    await client.follow()
    assert client._client is first
    cluster.is_deployed = True
    await client.follow()
    assert client._client is not first
    with pytest.raises(ModelUnavailable):
        await asyncio.wait_for(call, 5)


async def test_a_worker_that_starts_without_a_service_waits_for_it(cluster):
    cluster.instance = None
    client = ServiceClient(CONFIG, "app")
    assert client.replicas == 0
    with pytest.raises(ModelUnavailable, match="no service runs"):
        await calling(client, timeout_s=0.01)
    call = calling(client)
    cluster.instance = "first"
    await client.follow()
    client._client.answered.set_result("vectors")
    assert await asyncio.wait_for(call, 5) == "vectors"


async def test_a_call_that_is_cancelled_stays_cancelled(cluster):
    client = ServiceClient(CONFIG, "app")
    call = calling(client)
    await asyncio.sleep(0)
    cluster.instance = "second"
    call.cancel()
    await client.follow()
    with pytest.raises(asyncio.CancelledError):
        await call
