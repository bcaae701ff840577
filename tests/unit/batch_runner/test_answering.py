"""The answers to lines: those of the online route, in the offline lane, and patience."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from deployments.batch_runner import answering
from deployments.batch_runner.answering import LineAnswers
from deployments.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
)
from deployments.core.lane import Lane
from deployments.core.tenants.limits import TenantLimits
from deployments.core.tenants.tenant import Tenant
from tests.api.calls import EMBEDDINGS, app_of, connect, default_limits, send
from tests.api.fake_backend import FakeBackend

BODIES = [
    {"input": "a text"},
    {"input": ["a", "b c"], "model": "instruct", "input_type": "query", "instruction": "Do"},
    {"input": "a", "model": "nested", "dimensions": 2, "encoding_format": "base64"},
    {"input": "a", "model": "plain-query", "output_dtype": "int8"},
    {"input": "w " * 50, "truncate": True},
    {"input": "w " * 50},
    {"input": [[1, 2, 3]], "tokenizer": "plain"},
    {"input": [[1, 2, 3]]},
    {"input": "a", "model": "unknown"},
    {"input": "a", "space": "nowhere"},
    {"input": ""},
    {"input": []},
    {"input": 7},
    {"model": "plain"},
    {"input": "a", "dimensions": 3},
    {"input": "a", "task": "search"},
    {"input": "\ud800"},
    {"input": ["x"] * 3_000},
    {"input": [["x"]] * 30_000},
    {"input": "x" * 9_000_000},
]


class Clock:
    """A clock that pauses move on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(answering.asyncio, "sleep", clock.sleep)
    return clock


@pytest.mark.parametrize("body", BODIES, ids=lambda body: json.dumps(body)[:60])
async def test_a_line_gets_the_answer_of_the_online_route(body):
    backend = FakeBackend()
    raw = json.dumps(body).encode()
    status, answer = await LineAnswers(backend, default_limits(), 60).answer(raw)
    async with connect(app_of(FakeBackend())) as http:
        online = await send(http, EMBEDDINGS, body)
    assert status == online.status_code
    if status == 413:  # its advice is for a line
        assert json.loads(answer)["error"]["code"] == online.json()["error"]["code"]
    else:
        assert answer == online.content
    assert {lane for _, _, lane in backend.calls} <= {Lane.OFFLINE}


async def test_priority_online_is_not_for_batches():
    backend = FakeBackend()
    answers = LineAnswers(backend, default_limits(), 60)
    status, answer = await answers.answer(
        b'{"input": "a", "priority": "online", "encoding_format": "base64"}'
    )
    assert status == 200
    assert [lane for _, _, lane in backend.calls] == [Lane.OFFLINE]
    vector = json.loads(answer)["data"][0]["embedding"]
    assert len(np.frombuffer(base64.b64decode(vector), "<f4")) == 8


class Failing(FakeBackend):
    """Raises errors in turn, then answers."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    async def encode(self, *args):
        if self.errors:
            raise self.errors.pop(0)
        return await super().encode(*args)


async def test_what_passes_is_waited_for(clock):
    backend = Failing(
        Overloaded("full", None, 7.0), ModelUnavailable("cold"), DeadlineExceeded("late")
    )
    status, _ = await LineAnswers(backend, default_limits(), 60, clock).answer(b'{"input": "a"}')
    assert status == 200
    assert clock.now == 7 + 2 + 2


async def test_a_line_that_was_long_in_the_queue_is_not_given_up_at_its_first_fault(clock):
    class Slow(Failing):
        async def encode(self, *args):
            clock.now += 100
            return await super().encode(*args)

    backend = Slow(Overloaded("full", None, 7.0))
    status, _ = await LineAnswers(backend, default_limits(), 60, clock).answer(b'{"input": "a"}')
    assert status == 200


async def test_a_model_that_stays_away_is_waited_for_once(clock):
    backend = FakeBackend(failing=ModelUnavailable("gone", "model", 5.0))
    answers = LineAnswers(backend, default_limits(), 60, clock)
    status, answer = await answers.answer(b'{"input": "a", "model": "plain"}')
    assert (status, json.loads(answer)["error"]["code"]) == (503, "model_unavailable")
    assert 60 < clock.now <= 70
    waited = clock.now
    status, _ = await answers.answer(b'{"input": "b", "model": "plain"}')
    assert (status, clock.now) == (503, waited)  # the others do not wait again
    backend.failing = None
    assert (await answers.answer(b'{"input": "c", "model": "plain"}'))[0] == 200
    backend.failing = ModelUnavailable("gone", "model", 5.0)
    assert (await answers.answer(b'{"input": "d", "model": "plain"}'))[0] == 503
    assert clock.now > waited + 60


async def test_a_line_that_fails_beside_others_is_given_up(clock):
    class Moody(FakeBackend):
        async def encode(self, decision, request, lane, deadline):
            if "slow" in request.texts:
                raise DeadlineExceeded("late")
            return await super().encode(decision, request, lane, deadline)

    answers = LineAnswers(Moody(), default_limits(), 60, clock)
    pause = clock.sleep

    async def sleep(seconds: float) -> None:
        await pause(seconds)
        assert (await answers.answer(b'{"input": "quick"}'))[0] == 200

    answering.asyncio.sleep = sleep  # the fixture puts it back
    assert (await answers.answer(b'{"input": "slow"}'))[0] == 504


async def test_a_limited_tenant_waits_for_its_tokens(clock, monkeypatch):
    monkeypatch.setattr("deployments.api.rate_limits.time.monotonic", clock)
    backend, used = FakeBackend(), TenantLimits()
    answers = LineAnswers(backend, default_limits(), 60, clock, used)
    tenant = Tenant("team", None, Lane.OFFLINE, {Lane.OFFLINE: 60})
    for _ in range(100):  # of 5 tokens, where one comes back in a second; the patience is 60 s
        status, _ = await answers.answer(b'{"input": "two words"}', tenant)
        assert status == 200
    assert 380 < clock.now < 600
    assert vars(used.usage.of("team").models["plain"]) == {
        "requests": 100,
        "tokens": 500,
        "refusals": 0,
    }
    assert {request.share.name for _, request, _ in backend.calls} == {"team"}
    too_many = json.dumps({"input": ["two words"] * 20}).encode()
    status, answer = await answers.answer(too_many, tenant)
    assert (status, json.loads(answer)["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_a_refusal_is_final(clock):
    backend = Failing(InvalidRequest("no", "input"))
    status, _ = await LineAnswers(backend, default_limits(), 60, clock).answer(b'{"input": "a"}')
    assert (status, clock.now) == (400, 0)


@pytest.mark.parametrize(("bugs", "status"), [(2, 200), (3, 500)])
async def test_an_unknown_failure_is_tried_again(clock, bugs, status):
    backend = Failing(*[RuntimeError("a bug") for _ in range(bugs)])
    answers = LineAnswers(backend, default_limits(), 60, clock)
    actual, answer = await answers.answer(b'{"input": "a"}')
    assert actual == status
    assert b"a bug" not in answer
