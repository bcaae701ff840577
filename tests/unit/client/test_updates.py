"""A client in the middle of an update: some of the replicas have other files than its own."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.client import client as client_module
from deployments.client import retrying
from deployments.client.client import EncoderClient
from deployments.config.schema import ModelConfig
from deployments.core.batch import TokenBatch
from deployments.core.errors import SpaceMismatch
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.request import EncodeRequest
from deployments.wire.calls import OtherVersion
from tests.support.scripted import SPEC, NothingBegun, Replica, answer, load_numbers, spec_of

NEW = ModelConfig(name=SPEC.name, revision="f" * 40)
MOVED = OtherVersion(NEW, space_id(spec_of(NEW)))
TWO_CALLS = EncodeRequest(("20000", "30000"), normalize=False)
FIRST = answer(np.full(20_000, 20_000, np.int32), np.array([20_000], np.int32))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(retrying, "_KNOCK_AGAIN_S", 0.0)
    monkeypatch.setattr(client_module, "ClusterRecord", NothingBegun)
    monkeypatch.setattr(client_module, "load_preprocessor", load_numbers)


def client_of(replica):
    return EncoderClient(ModelConfig(name=SPEC.name), replica)


async def test_replicas_of_another_version_are_answered_in_their_own_space():
    replica = Replica(MOVED)
    client = client_of(replica)
    actual = await client.encode(EncodeRequest(("5",)), Lane.ONLINE, 60)
    assert (actual.space, client.spec) == (MOVED.space, spec_of(NEW))
    assert [terms.space for terms in replica.terms] == [space_id(SPEC), MOVED.space]


async def test_a_corpus_job_is_told_that_its_model_was_replaced():
    with pytest.raises(SpaceMismatch, match=f"no longer in {space_id(SPEC)}"):
        await client_of(Replica(MOVED)).encode_tokens(
            TokenBatch.from_lists([[1]]), Lane.OFFLINE, 60
        )


async def test_a_part_that_meets_another_version_is_sent_again_before_the_whole():
    replica = Replica(FIRST, MOVED, MOVED)
    actual = await client_of(replica).encode(TWO_CALLS, Lane.ONLINE, 60)
    assert actual.space == space_id(SPEC)
    assert actual.vectors[:, 0].tolist() == [20_000, 30_000]
    assert [lengths for lengths, *_ in replica.calls] == [[20_000], *[[30_000]] * 3]


async def test_the_whole_is_made_anew_once_no_replica_has_the_version():
    replica = Replica(*[MOVED] * 2 * (retrying._KNOCKS + 1))
    actual = await client_of(replica).encode(TWO_CALLS, Lane.ONLINE, 60)
    assert actual.space == MOVED.space
    assert actual.vectors[:, 0].tolist() == [20_000, 30_000]
