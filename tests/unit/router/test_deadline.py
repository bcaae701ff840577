"""Every step of a request ends at its one deadline; choosing a model is tested in tests/api."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from deployments.client import client as client_module
from deployments.client.client import EncoderClient
from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import ModelConfig
from deployments.core.errors import DeadlineExceeded, ModelUnavailable
from deployments.core.lane import Lane
from deployments.core.request import EncodeRequest
from deployments.core.routing.policy import Decision
from deployments.router.deployment import Router
from tests.support.scripted import SPEC, Numbers, Replica

REQUEST = EncodeRequest(("5",))


async def test_tokenizing_ends_at_the_deadline(monkeypatch):
    async def never(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr(Preprocessor, "tokenized", never)
    monkeypatch.setattr(client_module, "load_preprocessor", lambda _: Preprocessor(SPEC, Numbers()))
    replica = Replica()
    client = EncoderClient(ModelConfig(name=SPEC.name), replica)
    with pytest.raises(DeadlineExceeded, match="within its deadline"):
        await client.encode(REQUEST, Lane.ONLINE, 0.05)
    assert replica.calls == []


async def test_all_members_of_a_space_share_the_deadline():
    tried = []

    async def fail(space, model, request, lane, deadline):
        tried.append((model, deadline))
        raise ModelUnavailable(f"{model} cannot answer")

    deadline = time.monotonic() + 60
    decision = Decision("first", "space", failover=("second", "third"))
    with pytest.raises(ModelUnavailable, match="third cannot answer"):
        await Router.encode(
            SimpleNamespace(_encode_in=fail), decision, REQUEST, Lane.ONLINE, deadline
        )
    assert tried == [("first", deadline), ("second", deadline), ("third", deadline)]
