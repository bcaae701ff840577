"""``--start``: the service for the time of one job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import ray
from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.corpus.connect import connect, find_target
from cluster.corpus.errors import JobError, WrongModel
from deployments.wire.status import ModelState

_START_TIMEOUT_S = 900.0
# for what is under way, then for the end without it, then for the one of a service that is killed
_STOP_TIMEOUTS_S = (60.0, 10.0, 5.0)
# what a half-started service says; what its own code raises stays
_NOT_THERE_YET = (JobError, RayError, RayServeException, AioRpcError, OSError)
_WILL_NOT_PASS = (WrongModel, RayTaskError, AuthenticationError)
# what the job wants quiet or off, and the service does not
_FOR_THE_JOB = ("RAY_BACKEND_LOG_LEVEL", "RAY_ENABLE_AUTO_CONNECT")


@contextmanager
def started_service(config: str, model: str, address: str | None) -> Iterator[None]:
    """Runs ``embedfleet serve CONFIG`` until the model can be called, and stops it afterwards.

    On the Ray that runs already, if one does, else in one of its own. A service that runs already is
    used and left alone. Raises JobError when none starts, the model cannot answer, or Ray Serve runs
    other applications, which the config would replace.
    """
    if _answers(model, address):
        yield
        return
    joined = _running_ray(address)
    # what ends it is done from the last on, and each, whatever befalls those before it
    with ExitStack() as ending:
        child = _serve(config, joined)
        ending.callback(_stop, child)
        ending.callback(ray.shutdown)
        if joined:
            ending.callback(_clear, joined)
        _wait(child, model, joined)
        yield


def _running_ray(address: str | None) -> str | None:
    """The address of the Ray that the service is to join; None when it brings its own."""
    try:
        connect(address)
    except JobError:
        if address or os.environ.get("RAY_ADDRESS"):
            raise
        return None
    try:
        if others := sorted(serve.status().applications):
            raise JobError(
                f"Ray Serve runs {', '.join(others)} here, which --start would replace: deploy the "
                "model there, or wait until it is ready"
            )
        return str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def _serve(config: str, address: str | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cluster.cli", "serve", config]
    loud = {name: value for name, value in os.environ.items() if name not in _FOR_THE_JOB}
    where = {"RAY_ADDRESS": address} if address else {}
    # in a group of its own: the terminal's Ctrl-C would be a first stop, and ours the second
    return subprocess.Popen(command, stdout=sys.stderr, env={**loud, **where}, process_group=0)


def _wait(child: subprocess.Popen[bytes], model: str, address: str | None) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise JobError("the service did not start; its own words are above")
        if _answers(model, address):
            return
        time.sleep(1.0)
    raise JobError(f"the service was not ready within {_START_TIMEOUT_S:.0f} s")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Asks ever more firmly (see `serving._Stop`): killed alone, it would leave its own child behind.

    Ctrl-C meanwhile is the next step.
    """
    for patience_s in _STOP_TIMEOUTS_S:
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.send_signal(signal.SIGTERM)
            child.wait(patience_s)
            return
    child.kill()


def _clear(address: str) -> None:
    """The service's own end would leave it in a Ray that goes on."""
    try:
        connect(address)
        serve.shutdown()
    except (Exception, KeyboardInterrupt) as error:
        print(
            f"embedfleet: the service may still run on {address} ({error!r}); `serve shutdown` "
            "ends it",
            file=sys.stderr,
        )


def _answers(model: str, address: str | None) -> bool:
    try:
        connect(address)
        state = find_target(model).model.status.state
    except _WILL_NOT_PASS:
        raise
    except _NOT_THERE_YET:  # the deadline ends it
        ray.shutdown()
        return False
    return state in (ModelState.READY, ModelState.COLD)
