"""From texts to vectors through a handle that is not Ray's: cuts, retries, deadlines, reasons."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from deployments.client import client as client_module
from deployments.client import handle_transport
from deployments.client.client import EncoderClient
from deployments.config.schema import ModelConfig
from deployments.core.batch import Encoded
from deployments.core.errors import (
    DeadlineExceeded,
    EmbedfleetError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
)
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.models.spec import Role
from deployments.core.request import EncodeRequest
from deployments.core.tenants.tenant import Share
from deployments.wire.status import ModelState, ModelStatus
from tests.support.scripted import (
    LOST,
    NEVER,
    SPEC,
    NothingBegun,
    Replica,
    answer,
    load_numbers,
)

ONLINE, OFFLINE = Lane.ONLINE, Lane.OFFLINE


@pytest.fixture
def connect(monkeypatch):
    """Returns a client over a replica, its tokenizer at hand."""
    monkeypatch.setattr(handle_transport, "_PAUSE_AFTER_DEATH_S", 0.0)
    monkeypatch.setattr(client_module, "ClusterRecord", NothingBegun)
    monkeypatch.setattr(client_module, "load_preprocessor", load_numbers)

    def make(replica, state=ModelState.READY, cold_wait_s=4.0, may_come=False):
        status = ModelStatus(state, reason="because", may_come=may_come)
        return EncoderClient(ModelConfig(name=SPEC.name), replica, lambda: status, cold_wait_s)

    return make


def texts(*counts, **fields):
    return EncodeRequest(tuple(map(str, counts)), normalize=False, **fields)


async def test_the_answer_says_what_the_vectors_are(connect):
    actual = await connect(Replica()).encode(texts(5, 3, role=Role.QUERY), ONLINE, 60)
    assert actual.vectors[:, 0].tolist() == [5, 3]
    assert (actual.model, actual.space) == (SPEC.name, space_id(SPEC))
    assert (actual.tokens, actual.truncated, actual.instruction) == (8, (0,), None)
    assert (actual.queued_s, actual.computed_s) == (0.5, 0.25)


async def test_vectors_are_normalised_as_the_model_says(connect):
    actual = await connect(Replica()).encode(EncodeRequest(("5",)), ONLINE, 60)
    assert np.linalg.norm(actual.vectors) == pytest.approx(1)


@pytest.mark.parametrize("lane", Lane)
async def test_lane_and_time_left_go_along(connect, lane):
    replica = Replica()
    await connect(replica).encode(texts(5), lane, 60)
    [(lengths, sent_lane, timeout_s)] = replica.calls
    assert (lengths, sent_lane) == ([5], lane.value)
    assert 59 < timeout_s <= 60


async def test_the_share_of_the_tenant_goes_along(connect):
    replica = Replica()
    await connect(replica).encode(texts(5, share=Share("search", 4.0)), ONLINE, 60)
    assert [terms.share for terms in replica.terms] == [Share("search", 4.0)]


@pytest.mark.parametrize(
    ("counts", "calls"),
    [
        ([30_000, 2_768], [[30_000, 2_768]]),
        ([30_000, 2_769], [[30_000], [2_769]]),
        ([20_000] * 3, [[20_000]] * 3),
        ([1] * 2_000, [[1] * 1_953, [1] * 47]),  # 3 MB of vectors a reply
    ],
)
async def test_a_large_request_is_cut_and_put_together_in_order(connect, counts, calls):
    replica = Replica()
    actual = await connect(replica).encode(texts(*counts), OFFLINE, 60)
    assert [lengths for lengths, *_ in replica.calls] == calls
    assert actual.vectors[:, 0].tolist() == counts
    assert actual.computed_s == 0.25 * len(calls)


FIRST_PART = answer(np.full(20_000, 20_000, np.int32), np.array([20_000], np.int32))


async def test_half_a_request_is_not_refused(connect):
    full = Overloaded("full of its own first part", None, 0.001)
    replica = Replica(FIRST_PART, full, full)
    actual = await connect(replica).encode(texts(20_000, 30_000), ONLINE, 60)
    assert actual.vectors[:, 0].tolist() == [20_000, 30_000]
    assert [lengths for lengths, *_ in replica.calls] == [[20_000], *[[30_000]] * 3]


async def test_a_large_request_is_refused_by_its_first_part(connect):
    replica = Replica(Overloaded("full", None, 0.001))
    with pytest.raises(Overloaded, match="full"):
        await connect(replica).encode(texts(20_000, 30_000), ONLINE, 60)


async def test_the_rest_of_a_request_waits_until_its_deadline(connect):
    replica = Replica(FIRST_PART, Overloaded("full", None, 90.0))
    with pytest.raises(Overloaded):
        await connect(replica).encode(texts(20_000, 30_000), ONLINE, 60)


@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize("times", [1, 3])
async def test_what_a_dying_replica_lost_is_asked_again(connect, lane, times):
    replica = Replica(*[LOST] * times)
    actual = await connect(replica).encode(texts(5), lane, 60)
    assert actual.vectors[:, 0].tolist() == [5]
    assert len(replica.calls) == times + 1
    assert [terms.trial is None for terms in replica.terms] == [True, *[False] * times]


async def test_what_was_lost_waits_longer_for_a_replica_than_what_comes_new(connect):
    replica = Replica(LOST)
    await connect(replica, ModelState.STARTING, cold_wait_s=4.0).encode(texts(5), ONLINE, 60)
    assert [round(timeout_s) for *_, timeout_s in replica.calls] == [4, 60]


async def test_replicas_that_keep_dying_are_given_up_at_the_deadline(connect, monkeypatch):
    monkeypatch.setattr(handle_transport, "_PAUSE_AFTER_DEATH_S", 0.05)
    with pytest.raises(ModelUnavailable, match="its replica died"):
        await connect(Replica(*[LOST] * 9)).encode(texts(5), ONLINE, 0.2)


async def test_offline_waits_where_online_is_told_to_come_back(connect):
    full = Overloaded("full", None, 0.001)
    with pytest.raises(Overloaded, match="full"):
        await connect(Replica(full)).encode(texts(5), ONLINE, 60)
    replica = Replica(full, full)
    await connect(replica).encode(texts(5), OFFLINE, 60)
    assert len(replica.calls) == 3


async def test_offline_waits_no_longer_than_its_deadline(connect):
    with pytest.raises(Overloaded):
        await connect(Replica(Overloaded("full", None, 90.0))).encode(texts(5), OFFLINE, 60)


DEPLOYMENT = DeploymentID(name="encoder", app_name="app")
OUTCOMES = [
    (InvalidRequest("not in the vocabulary", "input"), InvalidRequest, "not in the vocabulary"),
    (ModelUnavailable("tiny: damaged"), ModelUnavailable, "tiny: damaged"),
    (BackPressureError(3, 2), Overloaded, "too many calls waiting"),
    (DeploymentUnavailableError(DEPLOYMENT), ModelUnavailable, "its deployment failed"),
]


@pytest.mark.parametrize(("outcome", "kind", "words"), OUTCOMES, ids=lambda v: type(v).__name__)
async def test_what_a_replica_refuses_is_the_answer(connect, outcome, kind, words):
    replica = Replica(outcome)
    with pytest.raises(kind, match=words):
        await connect(replica).encode(texts(5), ONLINE, 60)
    assert len(replica.calls) == 1


async def test_the_error_of_one_text_is_its_requests_error(connect):
    reply = answer(np.int32([5, 5]), np.int32([1, 1]))
    wrong = Encoded(reply.vectors, 0.0, 0.0, {1: EmbedfleetError("a poisoned text")})
    with pytest.raises(EmbedfleetError, match="a poisoned text"):
        await connect(Replica(wrong)).encode(texts(1, 1), ONLINE, 60)


@pytest.mark.parametrize("counts", [[5], [20_000, 20_000]])
async def test_a_deadline_cancels_the_call(connect, counts):
    replica = Replica(NEVER, NEVER)
    with pytest.raises(DeadlineExceeded, match="did not answer within the deadline"):
        await connect(replica).encode(texts(*counts), ONLINE, 0.02)
    assert all(reply.cancelled for reply in replica.replies)


@pytest.mark.parametrize("state", [ModelState.STARTING, ModelState.COLD])
async def test_a_model_without_a_replica_says_why_before_the_deadline(connect, state):
    client = connect(Replica(NEVER), state, cold_wait_s=0.02)
    with pytest.raises(ModelUnavailable, match=f"e5-small is {state}: because") as refused:
        await client.encode(texts(5), ONLINE, 60)
    assert refused.value.retry_after_s == 5.0


async def test_an_unavailable_model_is_not_called(connect):
    replica = Replica()
    with pytest.raises(ModelUnavailable, match="e5-small is unavailable: because"):
        await connect(replica, ModelState.UNAVAILABLE).encode(texts(5), ONLINE, 60)
    assert replica.calls == []


async def test_a_model_whose_node_may_come_is_called(connect):
    replica = Replica(NEVER)
    client = connect(replica, ModelState.UNAVAILABLE, cold_wait_s=0.02, may_come=True)
    with pytest.raises(ModelUnavailable, match="e5-small is unavailable: because"):
        await client.encode(texts(5), ONLINE, 60)
    assert len(replica.calls) == 1


async def test_a_tokenizer_that_cannot_load_says_why(connect, monkeypatch):
    def fail(_):
        raise ModelUnavailable("the hub cannot be reached")

    monkeypatch.setattr(client_module, "load_preprocessor", fail)
    client = connect(Replica())
    with pytest.raises(ModelUnavailable, match="e5-small: the hub cannot be reached"):
        await client.encode(texts(5), ONLINE, 60)
    client.close()


@pytest.mark.parametrize("counts", [[5], [20_000, 20_000]])
async def test_a_caller_who_leaves_cancels_the_call(connect, counts):
    replica = Replica(NEVER, NEVER)
    task = asyncio.ensure_future(connect(replica).encode(texts(*counts), ONLINE, 60))
    while not replica.replies:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not all(reply.cancelled for reply in replica.replies):
        await asyncio.sleep(0)


async def test_dimensions_that_the_model_cannot_give_reach_no_replica(connect):
    replica = Replica()
    with pytest.raises(InvalidRequest, match="384 dimensions"):
        await connect(replica).encode(texts(5, dimensions=4), ONLINE, 60)
    assert replica.calls == []
