"""The guard in `conftest.py` holds, also where Ray starts itself."""

from __future__ import annotations

import pytest
import ray
import ray._private.worker
from ray import serve


def connect() -> None:
    ray._private.worker.connect(None, "session")


WAYS_IN = {
    "init": lambda: ray.init(address="auto"),
    "worker init": lambda: ray._private.worker.init(address="auto"),
    "connect": connect,
    "put": lambda: ray.put(1),
    "remote": lambda: ray.remote(connect).remote(),
    "serve start": lambda: serve.start(proxy_location="Disabled"),
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_ray_cannot_be_started(way):
    with pytest.raises(RuntimeError, match="a unit test must not start Ray"):
        WAYS_IN[way]()
    assert not ray.is_initialized()
