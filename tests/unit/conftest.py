"""Unit tests run without Ray: starting or joining one is an error, as in Ray Serve's own unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.encoders import batcher, encoder, engine, make_encoder

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
