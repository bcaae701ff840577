"""``--start``: the service for the time of one job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from cluster.encoding.failures import JobError, WrongModel
from cluster.encoding.target import connect, find_target
from deployments.status import ModelState

_START_TIMEOUT_S = 900.0
_STOP_TIMEOUT_S = 60.0


@contextmanager
def started_service(config: str, model: str, address: str | None) -> Iterator[None]:
    """Runs ``embedfleet serve CONFIG`` until the model can be called, and stops it afterwards.

    A service that runs already is used and left alone. Raises JobError when none starts, or the
    model cannot answer.
    """
    if _answers(model, address):
        yield
        return
    command = [sys.executable, "-m", "cluster.cli", "serve", config]
    loud = {k: v for k, v in os.environ.items() if k != "RAY_BACKEND_LOG_LEVEL"}  # as cli.py set it
    child = subprocess.Popen(command, stdout=sys.stderr, env=loud)
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
        state = find_target(model).model.status.state
    except WrongModel:
        raise
    except Exception:  # whatever a half-started service says; the deadline ends it
        ray.shutdown()
        return False
    return state in (ModelState.READY, ModelState.COLD)
