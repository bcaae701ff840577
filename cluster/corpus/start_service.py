"""``--start``: runs the service while a job runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import ray
from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.corpus.connect import applications, find_model, join
from cluster.corpus.errors import JobError, StillLoading, WrongModel
from deployments.core.models.spec import GIVE_VECTORS, Kind
from deployments.wire.status import ModelState

_START_TIMEOUT_S = 900.0
# seconds after each SIGTERM: finish running calls, stop without them, kill the service's child
_STOP_TIMEOUTS_S = (60.0, 10.0, 5.0)
# a service that is still starting raises these
_NOT_READY_YET = (JobError, RayError, RayServeException, AioRpcError, OSError)
# and these will not pass
_PERMANENT = (WrongModel, RayTaskError, AuthenticationError)
_CALLABLE = (ModelState.READY, ModelState.COLD)
# set for the job's process only
_JOB_VARIABLES = ("RAY_BACKEND_LOG_LEVEL", "RAY_ENABLE_AUTO_CONNECT")


@contextmanager
def started_service(
    config: str, model: str, address: str | None, kinds: Sequence[Kind] = GIVE_VECTORS
) -> Iterator[None]:
    """Runs ``embedfleet serve CONFIG``, waits until the model can be called, and stops it afterwards.

    The service joins the Ray that is running, or starts one. A service that is already running is used
    and left alone. Raises JobError if the service does not start, if it cannot serve the model, or if
    Ray Serve runs other applications, which the config would replace.
    """
    # a model that is still loading is waited for by the job
    if _state(model, address, kinds) is not None:
        yield
        return
    joined = _running_ray(address)
    # callbacks run last to first, each of them even if one before it fails
    with ExitStack() as cleanup:
        child = _serve(config, joined)
        cleanup.callback(_stop, child)
        cleanup.callback(ray.shutdown)
        if joined:
            cleanup.callback(_remove_applications, joined)
        _wait(child, lambda: _state(model, joined, kinds) in _CALLABLE)
        yield


def _running_ray(address: str | None) -> str | None:
    """Returns the address of the Ray that the service will join; None if it starts one."""
    try:
        join(address)
    except JobError:
        if address or os.environ.get("RAY_ADDRESS"):
            raise
        return None
    try:
        if others := sorted(applications()):
            raise JobError(
                f"Ray Serve already runs {', '.join(others)}, which --start would replace: deploy the "
                "model there and drop --start, or wait until it is ready"
            )
        return str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()


def _serve(config: str, address: str | None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cluster.cli", "serve", config]
    environment = {name: value for name, value in os.environ.items() if name not in _JOB_VARIABLES}
    ray_address = {"RAY_ADDRESS": address} if address else {}
    # in a group of its own: else Ctrl-C in the terminal would stop it, and `_stop` a second time
    return subprocess.Popen(
        command, stdout=sys.stderr, env={**environment, **ray_address}, process_group=0
    )


def _wait(child: subprocess.Popen[bytes], answers: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise JobError("the service did not start; its output is above")
        if answers():
            return
        time.sleep(1.0)
    raise JobError(f"the service was not ready within {_START_TIMEOUT_S:.0f} s")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM up to three times, each one more urgent (see `cluster/service/serve.py`).

    A service that is killed outright would leave its own child behind. Ctrl-C skips to the next step.
    """
    for patience_s in _STOP_TIMEOUTS_S:
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            child.send_signal(signal.SIGTERM)
            child.wait(patience_s)
            return
    child.kill()


def _remove_applications(address: str) -> None:
    """Ends the applications in a Ray that keeps running; stopping the service would leave them."""
    try:
        join(address)
        serve.shutdown()
    except (Exception, KeyboardInterrupt) as error:
        print(
            f"embedfleet: the service may still run on {address} ({error!r}); end it with "
            "`serve shutdown`",
            file=sys.stderr,
        )


def _state(model: str, address: str | None, kinds: Sequence[Kind]) -> ModelState | None:
    """Returns the state of the model; None if there is no service that answers yet."""
    try:
        join(address)
        return find_model(model, kinds).served.status.state
    except _PERMANENT:
        raise
    except StillLoading:
        return ModelState.STARTING
    except _NOT_READY_YET:
        ray.shutdown()
        return None
