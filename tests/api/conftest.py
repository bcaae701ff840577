"""The real ASGI app over a fake backend, called without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.api.calls import app_of, connect
from tests.api.fake_backend import FakeBackend


@pytest.fixture
def backend() -> FakeBackend:
    """Models that answer; a test may break them."""
    return FakeBackend()


@pytest.fixture
async def client(backend: FakeBackend) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app over ``backend``."""
    async with connect(app_of(backend)) as http:
        yield http


@pytest.fixture(scope="session")
async def shared() -> AsyncIterator[httpx.AsyncClient]:
    """One client for many generated requests; tests must not change its app."""
    async with connect(app_of(FakeBackend())) as http:
        yield http
