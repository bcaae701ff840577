"""A client whose own files cannot be read takes over the version that a replica has."""

from __future__ import annotations

import pytest

from deployments.client import client as client_module
from deployments.client.client import EncoderClient
from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import ModelConfig
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.request import EncodeRequest
from deployments.wire.calls import OtherVersion
from tests.support.scripted import LOST, SPEC, NothingBegun, Numbers, Replica, spec_of

ABSENT = ModelConfig(name=SPEC.name, path="/absent")
OLD = ModelConfig(name=SPEC.name)
VERSION = OtherVersion(OLD, space_id(SPEC))


@pytest.fixture
def connect(monkeypatch):
    """Returns a client over a replica; only the old version's files can be read."""

    def load(config, space=None):
        if config is not OLD:
            raise ModelUnavailable("/absent is no folder")
        return Preprocessor(spec_of(config), Numbers())

    monkeypatch.setattr(client_module, "load_preprocessor", load)
    monkeypatch.setattr(client_module, "ClusterRecord", NothingBegun)
    clients = []

    def make(replica, config=ABSENT):
        clients.append(EncoderClient(config, replica))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


async def failed(client):
    with pytest.raises(ModelUnavailable, match="/absent is no folder"):
        await client.encode(EncodeRequest(("5",)), Lane.ONLINE, 5)


async def test_it_answers_from_the_replicas_version(connect):
    replica = Replica(VERSION)
    client = connect(replica)
    await failed(client)
    assert client.spec is None
    await client.follow_replica(5)
    assert client.spec == SPEC
    actual = await client.encode(EncodeRequest(("5",)), Lane.ONLINE, 5)
    assert actual.space == VERSION.space
    assert [lengths for lengths, *_ in replica.calls] == [[], [5]]


@pytest.mark.parametrize("reply", [LOST, ModelUnavailable("it is damaged there too")])
async def test_where_no_replica_helps_the_reason_stays(connect, reply):
    client = connect(Replica(reply))
    await failed(client)
    await client.follow_replica(5)
    await failed(client)


async def test_who_has_its_own_files_asks_nobody(connect):
    replica = Replica()
    client = connect(replica, OLD)
    await client.ready_preprocessor(5)
    await client.follow_replica(5)
    assert replica.calls == []
