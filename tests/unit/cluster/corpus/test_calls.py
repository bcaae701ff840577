"""Which errors of a replica reject a text, which are repeated, and how many calls are in flight."""

from __future__ import annotations

import asyncio
from collections import deque

import numpy as np
import pytest
from anyio import CapacityLimiter

from cluster.corpus.encode import calls
from cluster.corpus.encode.calls import CallSender
from cluster.corpus.errors import JobError
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import (
    DeadlineExceeded,
    EmbedfleetError,
    KillsReplicas,
    ModelUnavailable,
    Overloaded,
    TextFailed,
)
from deployments.core.models.spec import ModelSpec, Pooling

SPEC = ModelSpec("m", "m", "0", "bert", Pooling.MEAN, 4, 64)
BATCH = TokenBatch.from_lists([[1, 2], [3]])


class ScriptedClient:
    """Answers each call with ones, and with the next errors of its script."""

    def __init__(self, *script):
        self.script = deque(script)

    async def encode_tokens(self, batch, lane, timeout_s):
        errors = self.script.popleft() if self.script else {}
        if isinstance(errors, Exception):
            raise errors
        return Encoded(np.ones((len(batch), 4), np.float32), 0.0, 0.0, errors)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(calls, "_PAUSE_S", 0.0)


async def encode(client):
    done = []
    sender = CallSender(client, CapacityLimiter(1), tokens=100, spec=SPEC, patience_s=60.0)
    vectors, reasons = await sender.encode(BATCH, lambda *ended: done.append(ended))
    assert done == [(2, 3)]
    return vectors, reasons


async def test_a_call_of_nothing_but_refused_texts_has_no_vectors():
    class Refusing:
        async def encode_tokens(self, batch, lane, timeout_s):
            refused = dict.fromkeys(range(len(batch)), KillsReplicas("it kills"))
            return Encoded(np.zeros((len(batch), 0), np.float32), 0.0, 0.0, refused)

    vectors, reasons = await encode(Refusing())
    assert (vectors.shape, sorted(reasons)) == ((2, 4), [0, 1])


@pytest.mark.parametrize("error", [TextFailed("not finite"), KillsReplicas("it kills")])
async def test_an_error_of_the_text_rejects_it(error):
    client = ScriptedClient({1: error})
    _, reasons = await encode(client)
    assert reasons == {1: str(error)}


async def test_an_error_belongs_to_its_text_although_texts_are_sent_by_length():
    texts = TokenBatch.from_lists([[1], [2, 2], [3, 3, 3]])
    sender = CallSender(
        ScriptedClient({0: TextFailed("the longest")}),
        CapacityLimiter(1),
        100,
        SPEC,
        patience_s=60.0,
    )
    _, reasons = await sender.encode(texts, lambda *_: None)
    assert list(reasons) == [2]


@pytest.mark.parametrize(
    "error",
    [
        EmbedfleetError("something inside"),
        ModelUnavailable("the loop has died", "model", 0.001),
        Overloaded("full", None, 0.001),
        DeadlineExceeded("too late"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("of_one_text", [True, False])
async def test_a_call_with_any_other_error_is_repeated(error, of_one_text):
    client = ScriptedClient({0: error} if of_one_text else error)
    vectors, reasons = await encode(client)
    assert not client.script
    assert reasons == {}
    assert (vectors == 1).all()


async def test_calls_in_flight_follow_the_limiter():
    running, release = 0, asyncio.Event()

    class WaitingClient:
        async def encode_tokens(self, batch, lane, timeout_s):
            nonlocal running
            running += 1
            await release.wait()
            return Encoded(np.ones((len(batch), 4), np.float32), 0.0, 0.0, {})

    limiter = CapacityLimiter(1)
    sender = CallSender(WaitingClient(), limiter, tokens=1, spec=SPEC, patience_s=60.0)
    batch = TokenBatch.from_lists([[1], [2], [3]])
    encoding = asyncio.create_task(sender.encode(batch, lambda *_: None))
    await asyncio.sleep(0.01)
    assert running == 1
    limiter.total_tokens = 2
    await asyncio.sleep(0.01)
    assert running == 2
    release.set()
    vectors, _ = await encoding
    assert vectors.shape == (3, 4)


async def test_replicas_that_stay_away_end_the_job():
    client = ScriptedClient(*[ModelUnavailable("away", "model", 0.001)] * 100)
    sender = CallSender(client, CapacityLimiter(1), tokens=100, spec=SPEC, patience_s=0.05)
    with pytest.raises(JobError, match="the replicas do not answer: away"):
        await sender.encode(BATCH, lambda *_: None)
