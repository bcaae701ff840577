"""Unit tests run without Ray: to start or to join one is an error, as in Ray Serve's own unit tests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.encoders import batcher, encoder, engine, make_encoder
from tests.support.importing import importing

__all__ = ["batcher", "encoder", "engine", "make_encoder"]


def forbidden(*_: object, **__: object) -> None:
    raise RuntimeError("a unit test must not start Ray, nor connect to one")


@pytest.fixture(scope="package", autouse=True)
def no_ray() -> Iterator[None]:
    """Makes every way into Ray raise, until the tests of this folder are over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.init", forbidden)
        patch.setattr("ray._private.worker.init", forbidden)
        patch.setattr("ray._private.worker.connect", forbidden)
        yield


@pytest.fixture(scope="session", autouse=True)
def engine_import(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str] | None]:
    """Imports the engine in a process of its own; it takes seconds, so it runs beside all tests."""
    if not any("test_the_engine_loads" in item.nodeid for item in request.session.items):
        yield None
        return
    with importing("deployments.core.engine.engine") as process:
        yield process
        process.kill()
