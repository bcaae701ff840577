"""The running service, as a corpus job finds it: through Ray, not through HTTP."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from grpc.aio import AioRpcError
from ray import serve
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.corpus.errors import JobError, WrongModel
from deployments.core.errors import EmbedfleetError
from deployments.wire.served import ServedModel
from deployments.wire.status import ModelState, ModelStatus

_ANSWER_TIMEOUT_S = 60.0
_KNOCK_TIMEOUT_S = 5.0
_START = "start it with `embedfleet serve`, or give --start to run it for this job's time"


@dataclass(frozen=True)
class Target:
    """The application that answers, and the model in it."""

    app: str
    model: ServedModel

    def __str__(self) -> str:
        """The model and what it runs on, such as ``e5-small, 2 replicas, on the Ray at …``."""
        name, status = self.model.config.name, self.model.status
        replicas = f"{status.replicas} replica{'' if status.replicas == 1 else 's'}"
        address = ray.get_runtime_context().gcs_address
        return ", ".join(
            filter(None, (name, replicas, _unready(status), f"on the Ray at {address}"))
        )


def connect(address: str | None) -> None:
    """Joins the Ray cluster at ``address``, else RAY_ADDRESS, else the one on this machine.

    Raises JobError, which says how to start the service, when there is none.
    """
    if ray.is_initialized():
        return
    _knock(address or os.environ.get("RAY_ADDRESS") or "auto")
    own = signal.getsignal(signal.SIGTERM)
    try:
        with _quiet():
            ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise WrongModel(f"the Ray cluster lets nobody in without its token: {error}") from error
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise JobError(
            f"no Ray cluster answers ({error}); {_START}{_hint(address, error)}"
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own)  # Ray has set its own, in a main thread


@contextmanager
def _quiet() -> Iterator[None]:
    """Ray's core says on its own standard error how loud it is going to be, at whatever level."""
    sys.stderr.flush()
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        os.close(nowhere)


def _knock(address: str) -> None:
    """Ray itself would try for most of a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_TIMEOUT_S).close()
    except OSError as error:
        raise JobError(f"no Ray cluster answers at {address} ({error}); {_START}") from error


def _hint(address: str | None, error: Exception) -> str:
    """Ray (2.60) sends a token of its own accord, if it has one, only to a cluster that it finds."""
    if "Could not find any running Ray" in str(error):
        return ""
    given = address or os.environ.get("RAY_ADDRESS")
    mode = "RAY_AUTH_MODE=token and " if given and not os.environ.get("RAY_AUTH_MODE") else ""
    return (
        f"; a cluster that asks for a token wants {mode}the token of who started it, in "
        "~/.ray/auth_token or RAY_AUTH_TOKEN"
    )


def raylet() -> str:
    """Returns the Unix socket of this node's part of the Ray that has been joined."""
    own = ray.get_runtime_context().get_node_id()
    return next(str(node["RayletSocketName"]) for node in ray.nodes() if node["NodeID"] == own)


def find_target(model: str) -> Target:
    """Returns what answers to a model's name. Raises JobError when it is not there or cannot."""
    app, served = _asked(model)
    if isinstance(served, EmbedfleetError):
        raise WrongModel(str(served))
    if served.status.refuses:
        raise WrongModel(f"{served.config.name} is unavailable: {served.status.reason}")
    if served.spec is None:
        raise JobError(f"{served.config.name} is still being read; try again in a few seconds")
    return Target(app, served)


def why_waiting(target: Target) -> str | None:
    """Returns what the calls of a job wait for; None where its model is ready."""
    try:
        served = asyncio.run(_served(target.app, target.model.config.name))
    except Exception as error:  # of any kind: the job's own calls decide what becomes of it
        return f"the service does not answer ({error!r})"
    if isinstance(served, EmbedfleetError):
        return str(served)
    why = _unready(served.status)
    return why and f"{served.config.name} is {why}"


def _unready(status: ModelStatus) -> str | None:
    if status.state is ModelState.READY:
        return None
    return f"{status.state}: {status.reason}" if status.reason else str(status.state)


def _asked(model: str) -> tuple[str, ServedModel | EmbedfleetError]:
    try:
        app = _application()
        return app, asyncio.run(_served(app, model))
    except (RayTaskError, AuthenticationError) as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        raise WrongModel(
            f"the service cannot say what it serves: {cause!r}; its logs say more"
        ) from error
    except (RayError, RayServeException, AioRpcError, OSError) as error:
        raise JobError(
            f"the service does not answer ({error!r}); it may be starting, or hold too much: "
            "`serve status` shows how it is, then run the command again"
        ) from error


async def _served(app: str, model: str) -> ServedModel | EmbedfleetError:
    """Asked inside an event loop: in Serve's throughput mode a handle routes in there."""
    response = serve.get_app_handle(app).served.remote(model)
    found: ServedModel | EmbedfleetError = await asyncio.wait_for(response, _ANSWER_TIMEOUT_S)
    return found


def _application() -> str:
    for name, app in serve.status().applications.items():
        if "router" in app.deployments and any(d.startswith("encoder-") for d in app.deployments):
            return str(name)
    raise JobError(f"Ray runs here, but the service does not; {_START}")
