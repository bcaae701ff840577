"""``--start``: the service for the time of one job."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from cluster.encoding.failures import JobError
from cluster.encoding.target import connect, find_target

_START_TIMEOUT_S = 900.0
_STOP_TIMEOUT_S = 60.0


@contextmanager
def started_service(config: str, model: str, address: str | None) -> Iterator[None]:
    """Runs ``embedfleet serve CONFIG`` until the model can be called, and stops it afterwards.

    A service that runs already is used and left alone. Raises JobError when it does not start.
    """
    if _answers(model, address):
        yield
        return
    child = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "serve", config], stdout=sys.stderr
    )
    try:
        _wait(child, model, address)
        yield
    finally:
        ray.shutdown()
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()


def _wait(child: subprocess.Popen[bytes], model: str, address: str | None) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise JobError("the service did not start; its own words are above")
        if _answers(model, address):
            return
        time.sleep(1.0)
    raise JobError(f"the service was not ready within {_START_TIMEOUT_S:.0f} s")


def _answers(model: str, address: str | None) -> bool:
    try:
        connect(address)
        find_target(model)
    except Exception:  # whatever a half-started service says; the deadline ends it
        ray.shutdown()
        return False
    return True
