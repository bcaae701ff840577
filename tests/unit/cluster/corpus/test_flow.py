"""Which answers of a replica reject a text, and which are waited out."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from cluster.corpus.encode import flow
from cluster.corpus.encode.flow import Flow, Slots
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import (
    DeadlineExceeded,
    EmbedfleetError,
    KillsReplicas,
    ModelUnavailable,
    Overloaded,
    TextFailed,
)

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
def at_once(monkeypatch):
    monkeypatch.setattr(flow, "_PAUSE_S", 0.0)


async def encode(client):
    done = []
    way = Flow(client, Slots(1), tokens=100, dimension=4)
    vectors, reasons = await way.encode(BATCH, lambda *ended: done.append(ended))
    assert done == [(2, 3)]
    return vectors, reasons


@pytest.mark.parametrize("error", [TextFailed("not finite"), KillsReplicas("it kills")])
async def test_what_is_the_texts_own_rejects_it(error):
    client = ScriptedClient({1: error})
    _, reasons = await encode(client)
    assert reasons == {1: str(error)}


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
@pytest.mark.parametrize("of_a_row", [True, False])
async def test_anything_else_is_waited_out(error, of_a_row):
    client = ScriptedClient({0: error} if of_a_row else error)
    vectors, reasons = await encode(client)
    assert not client.script
    assert reasons == {}
    assert (vectors == 1).all()
