"""OpenAI's own client waits for the time in the header of an overloaded service, and tries again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest

from deployments.core.errors import Overloaded
from deployments.core.lane import Lane
from deployments.core.request import Embeddings, EncodeRequest
from tests.api.calls import app_of, listening
from tests.api.fake_backend import FakeBackend

WAIT_S = 0.3


class BusyBackend(FakeBackend):
    """Refuses ``refusals`` requests before it answers one."""

    refusals = 0
    attempts = 0

    async def encode(
        self, model: str, request: EncodeRequest, lane: Lane, deadline: float
    ) -> Embeddings:
        self.attempts += 1
        if self.attempts <= self.refusals:
            raise Overloaded("too much waits", retry_after_s=WAIT_S)
        return await super().encode(model, request, lane, deadline)


@pytest.fixture
def backend() -> BusyBackend:
    return BusyBackend()


@pytest.fixture
def url(backend: BusyBackend) -> Iterator[str]:
    with listening(app_of(backend)) as url:
        yield f"{url}/v1"


def embed(url: str, backend: BusyBackend, max_retries: int) -> list[float]:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=max_retries)
    model = backend.models()[0].id
    return client.embeddings.create(model=model, input="hello").data[0].embedding


def test_it_retries_after_the_time_it_was_told(url, backend):
    backend.refusals = 2
    started = time.monotonic()
    assert embed(url, backend, max_retries=2)
    waited = time.monotonic() - started
    assert backend.attempts == 3
    assert 2 * WAIT_S <= waited < 2 * WAIT_S + 2


def test_without_retries_the_caller_sees_a_rate_limit(url, backend):
    backend.refusals = 1
    with pytest.raises(openai.RateLimitError, match="too much waits"):
        embed(url, backend, max_retries=0)
