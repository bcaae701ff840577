"""The router's own part of encoding: the shared space, failover, and repeated refusals."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from deployments.core.errors import DeadlineExceeded, ModelUnavailable, Overloaded, SpaceMismatch
from deployments.core.lane import Lane
from deployments.core.request import Embeddings, EncodeRequest
from deployments.core.routing.facts import Load
from deployments.core.routing.overload import LastRefusal
from deployments.core.routing.policy import Decision
from deployments.core.tenants.tenant import Share
from deployments.metrics import FleetMetrics
from deployments.router.deployment import Router

REQUEST = EncodeRequest(("a text",))
SPEED = 100.0


class Client:
    """Answers in the model's own space, unless it fails."""

    def __init__(self, model):
        self.model, self.calls, self.failing, self.spec = model, 0, None, None

    async def encode(self, request, lane, timeout_s):
        self.calls += 1
        if self.failing:
            raise self.failing
        return Embeddings(np.ones((1, 2), np.float32), self.model, f"own-{self.model}:2", 1)


class OneSpace:
    """Stands for SharedSpaces: model a is a member of the space, b was replaced."""

    def is_current(self, shared_id, model, own_id):
        return (shared_id, model, own_id) == ("shared", "a", "own-a")


@pytest.fixture
def router():
    """A router without Serve: clients of two models."""
    router = SimpleNamespace(
        _clients={name: Client(name) for name in "ab"},
        _refusals=defaultdict(LastRefusal),
        _fleet_metrics=FleetMetrics(),
        _chooser=SimpleNamespace(
            in_progress=lambda *_: nullcontext(), load=lambda model: Load(tokens_per_s=SPEED)
        ),
        _spaces=OneSpace(),
    )
    for name in ("_encode_in", "_encode_with"):
        setattr(router, name, getattr(Router, name).__get__(router))
    return router


async def encode(router, decision, lane=Lane.ONLINE):
    return await Router.encode(router, decision, REQUEST, lane, time.monotonic() + 60)


async def test_a_model_answers_in_its_own_space(router):
    assert (await encode(router, Decision("b", "name"))).space == "own-b:2"


async def test_a_member_answers_under_the_id_of_the_shared_space(router):
    assert (await encode(router, Decision("a", "space", space="shared:2"))).space == "shared:2"


async def test_a_replaced_member_does_not_answer_for_the_shared_space(router):
    with pytest.raises(SpaceMismatch) as refused:
        await encode(router, Decision("b", "space", space="shared:2"))
    assert refused.value.param == "space"


@pytest.mark.parametrize("error", [ModelUnavailable("its GPU is lost"), Overloaded("full")])
async def test_another_member_answers_for_one_that_cannot(router, error):
    router._clients["b"].failing = error
    decision = Decision("b", "space", space="shared", failover=("a",))
    assert (await encode(router, decision)).model == "a"


@pytest.mark.parametrize(("lane", "calls"), [(Lane.ONLINE, 1), (Lane.OFFLINE, 2)])
async def test_an_online_request_like_one_just_refused_does_not_reach_the_client(
    router, lane, calls
):
    router._clients["a"].failing = Overloaded("full", None, 60.0)
    for _ in range(2):
        with pytest.raises(Overloaded):
            await encode(router, Decision("a", "name"), lane)
    assert router._clients["a"].calls == calls
    assert router._fleet_metrics.take_refusals() == {("a", lane): 2}


async def test_what_was_refused_to_one_tenant_is_not_refused_to_another(router):
    client, decision = router._clients["a"], Decision("a", "name")
    client.failing = Overloaded("full", None, 60.0)
    for share in (Share("big"), Share("small")):
        request = replace(REQUEST, share=share)
        with pytest.raises(Overloaded):
            await Router.encode(router, decision, request, Lane.ONLINE, time.monotonic() + 60)
    assert client.calls == 2


@pytest.mark.parametrize("lane", Lane)
async def test_a_request_that_cannot_be_done_in_time_does_not_reach_the_client(router, lane):
    long = EncodeRequest(("word " * 12_000,))
    with pytest.raises(DeadlineExceeded):
        await Router._encode_with(router, "a", long, lane, time.monotonic() + 60)
    assert router._clients["a"].calls == 0
    router._clients["a"].spec = SimpleNamespace(max_tokens=512)  # of which the text is cut
    await Router._encode_with(router, "a", long, lane, time.monotonic() + 60)
