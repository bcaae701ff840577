"""The answer to a call that arrived while its model was cold."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deployments.client import client as client_module
from deployments.client.client import EncoderClient
from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import ModelConfig
from deployments.core.batch import TokenBatch
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane
from deployments.wire.status import ModelState, ModelStatus
from tests.support.scripted import SPEC, Numbers


class Never:
    """A call that is never answered."""

    def __init__(self, *call):
        self.cancelled = False

    def __await__(self):
        while True:
            yield

    def cancel(self):
        self.cancelled = True


async def test_a_model_that_has_just_started_is_worth_another_call(monkeypatch):
    monkeypatch.setattr(client_module, "load_preprocessor", lambda _: Preprocessor(SPEC, Numbers()))
    states = iter([ModelState.COLD, ModelState.READY])
    handle = SimpleNamespace(encode=SimpleNamespace(remote=Never, _router=None))
    client = EncoderClient(
        ModelConfig(name="e5-small"), handle, lambda: ModelStatus(next(states)), cold_wait_s=0.02
    )
    with pytest.raises(ModelUnavailable, match="was cold and has just started") as refused:
        await client.encode_tokens(TokenBatch.from_lists([[1]]), Lane.ONLINE, 60)
    assert refused.value.retry_after_s == 1.0
