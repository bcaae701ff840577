"""Connects a corpus job to the running service, through Ray and not through HTTP."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from grpc.aio import AioRpcError
from ray.exceptions import AuthenticationError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from cluster.arguments import service_url
from cluster.corpus.errors import JobError, StillLoading, WrongModel
from cluster.service.http import Service
from deployments.core.errors import EmbedfleetError
from deployments.core.models.spec import GIVE_VECTORS, Kind
from deployments.ray_private import (
    application_details,
    forget_ended_serve,
    http_port,
    local_rays,
    ray_that_listens,
    rays_with_serve,
)
from deployments.wire.status import ModelState, ModelStatus, ServedModel

_ANSWER_TIMEOUT_S = 60.0
_PROBE_TIMEOUT_S = 5.0
_CONTROLLER_TIMEOUT_S = 30.0
_LOADING_EVERY_S = 1.0
_ROUTER = "router"
_OURS = {"cluster": "corpus/connect.py", "deployments": "core/errors.py"}
_LEAST_FREE_BYTES = 10_000_000


@dataclass(frozen=True)
class Wording:
    """How a caller says where the service is, for messages."""

    url: str
    address: str
    start: str = "start it with `embedfleet serve`"


IN_PYTHON = Wording("url", 'address="HOST:PORT"')
IN_COMMAND = Wording(
    "--url",
    "--address HOST:PORT",
    "start it with `embedfleet serve`, or give --start to run it while this job runs",
)


@dataclass(frozen=True)
class JobModel:
    """The model that a job uses: the Serve application that has it, and its state there."""

    app: str
    served: ServedModel

    def __str__(self) -> str:
        """The model and where it runs, such as ``e5-small, 2 replicas, on the Ray at …``."""
        name, status = self.served.config.name, self.served.status
        replicas = f"{status.replicas} replica{'' if status.replicas == 1 else 's'}"
        address = ray.get_runtime_context().gcs_address
        return ", ".join(
            filter(None, (name, replicas, _unready(status), f"on the Ray at {address}"))
        )


def connect(
    address: str | None = None, url: str | None = None, wording: Wording = IN_PYTHON
) -> None:
    """As `join`, with EMBEDFLEET_URL in place of a ``url`` that is missing."""
    join(address, url or os.environ.get("EMBEDFLEET_URL"), wording)


def join(address: str | None, url: str | None = None, wording: Wording = IN_PYTHON) -> None:
    """Joins the Ray cluster at ``address``, else RAY_ADDRESS, else the one of the service.

    The service is the one at ``url``, else the only one on this machine. A process that is connected to
    Ray already stays there. Raises JobError, with the arguments in the caller's ``wording``, if there is
    no cluster, no service in those of this machine, or more than one, or if a runtime environment brings
    the workers other packages of our names.
    """
    if not ray.is_initialized():
        _find(address, url, wording)
    _check_workers()


def _find(address: str | None, url: str | None, wording: Wording) -> None:
    if explicit := address or os.environ.get("RAY_ADDRESS"):
        _join(explicit, wording)
    elif url is not None:
        port = _local_port(url, wording)
        _refuse_silence(url, port, wording)
        rays = local_rays()  # from here on, this process sends its token to them
        if owner := ray_that_listens(port):
            _join(owner, wording)
        else:
            _refuse_another_server(url, wording)
            service = f"the service at {url}"
            _join_first(rays, lambda: http_port(_PROBE_TIMEOUT_S) == port, service, wording)
    elif len(rays := local_rays()) > 1:
        _join_the_one_with_serve(rays, wording)
    else:
        _join("auto", wording)


def _check_workers() -> None:
    """Raises JobError if what a runtime environment brings to the workers hides a package of ours."""
    if not {"working_dir", "py_modules"} & ray.get_runtime_context().runtime_env.keys():
        return

    def hiding() -> str | None:  # nested, so that Ray sends its code and not its name
        for package, module in _OURS.items():
            spec = importlib.util.find_spec(package)
            places = list(spec.submodule_search_locations or [str(spec.origin)]) if spec else []
            if not any(Path(place, module).is_file() for place in places):
                return f"`{package}` there is {places[0] if places else 'not installed'}"
        return None

    try:
        task = ray.remote(num_cpus=0)(hiding)
        reason = ray.get(task.remote(), timeout=_ANSWER_TIMEOUT_S)
    except RayError as error:  # a time-out is one
        raise JobError(f"a worker with the runtime environment cannot start: {error}") from error
    if reason is not None:
        raise JobError(
            f"Ray's workers do not have embedfleet's own packages: {reason}. If `working_dir` or "
            "`py_modules` of the runtime environment brings a package of that name, rename it"
        )


def _join_the_one_with_serve(rays: Sequence[str], wording: Wording) -> None:
    serving = rays_with_serve()
    if len(serving) > 1:
        raise JobError(
            f"Ray Serve runs on several Rays of this machine ({', '.join(serving)}): name the service "
            f"with {wording.url}, or its Ray with {wording.address}"
        )
    if serving:
        _join(serving[0], wording)
    else:
        _join_first(rays, _has_service, "the service", wording)


def _join_first(rays: Sequence[str], fits: Callable[[], bool], what: str, wording: Wording) -> None:
    for address in rays:
        with suppress(JobError, RayError, RayServeException, AioRpcError, OSError, ValueError):
            _join(address, wording)
            if fits():
                return
        ray.shutdown()
    looked = ", ".join(rays) or "none runs"
    raise JobError(
        f"{what} is on no Ray of this machine ({looked}); {wording.start}, or give {wording.address}"
    )


def _has_service() -> bool:
    return bool(_application())


def _local_port(url: str, wording: Wording) -> int:
    """Returns the port of a URL of this machine. Raises JobError for others."""
    try:
        parts = urlsplit(service_url(url))
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.socket() as probe:
            probe.bind((parts.hostname or "", 0))
    except ValueError as error:
        raise JobError(f"{wording.url} {url} is not a URL: {error}") from error
    except OSError as error:
        raise JobError(
            f"{wording.url} {url} is on another machine: name its Ray with {wording.address} instead"
        ) from error
    return port


def _refuse_silence(url: str, port: int, wording: Wording) -> None:
    """Fails at once if nothing listens there; each Ray would be tried for half a minute."""
    try:
        host = urlsplit(service_url(url)).hostname
        socket.create_connection((host or "", port), _PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise JobError(f"no service answers at {url} ({error}); {wording.start}") from error


def _refuse_another_server(url: str, wording: Wording) -> None:
    """Fails at once if what answers there is neither Ray Serve nor embedfleet.

    The path is left out: Ray Serve's own routes are not under it.
    """
    address = urlsplit(service_url(url))._replace(path="", query="", fragment="").geturl()
    with closing(Service(address, is_ours=True)) as service:
        sentence = service.another_server()
    if sentence is not None:
        raise JobError(f"{sentence}; set {wording.url} to the service, or {wording.start}")


def _join(address: str, wording: Wording) -> None:
    _probe(address, wording)
    serve_log = logging.getLogger("ray.serve")  # at INFO, it tells of its own objects
    serve_log.setLevel(max(serve_log.level, logging.WARNING))
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with _silent_stderr():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except AuthenticationError as error:
        raise WrongModel(f"the Ray cluster asks for its token: {error}") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise JobError(
            f"no Ray cluster answers ({error}); {wording.start}{_token_hint(address, error)}"
        ) from error
    finally:
        # in the main thread, Ray replaces it
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hides a line about log levels that Ray's core prints at every level."""
    sys.stderr.flush()
    stderr, devnull = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)


def _probe(address: str, wording: Wording) -> None:
    """Fails within seconds if nothing listens there; Ray itself would try for most of a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise JobError(f"no Ray cluster answers at {address} ({error}); {wording.start}") from error


def _token_hint(address: str, error: Exception) -> str:
    """Ray (2.60) sends its token without RAY_AUTH_MODE only to a cluster that it found itself."""
    if "Could not find any running Ray" in str(error):
        return ""
    has_mode = address == "auto" or os.environ.get("RAY_AUTH_MODE")
    mode = "" if has_mode else "set RAY_AUTH_MODE=token and "
    return (
        f"; if the cluster asks for a token, {mode}put the token of the user who started it into "
        "~/.ray/auth_token or RAY_AUTH_TOKEN"
    )


def raylet_socket() -> str:
    """Returns the Unix socket of the raylet on this node of the cluster that was joined."""
    node_id = ray.get_runtime_context().get_node_id()
    return next(str(node["RayletSocketName"]) for node in ray.nodes() if node["NodeID"] == node_id)


def session_folder() -> Path:
    """Returns the folder on this node in which the Ray that was joined keeps its session."""
    return Path(raylet_socket()).parent.parent  # SESSION/sockets/raylet


def check_disk(session: Path) -> None:
    """Raises JobError if the disk of Ray's session folder is full.

    Ray then cannot start workers, and waits for them without end.
    """
    with suppress(OSError):  # the folder of another container cannot be looked at
        free = shutil.disk_usage(session).free
        if free < _LEAST_FREE_BYTES:
            raise JobError(
                f"the disk of {session}, where Ray keeps its session, is full ({free / 1e6:.0f} MB are "
                "free): free space there. All parts that were written are kept"
            )


def find_model(name: str, kinds: Sequence[Kind] = GIVE_VECTORS) -> JobModel:
    """Returns the model that the service has under this name. Raises JobError if it cannot serve it, or
    if it is of another kind.
    """
    app, served = _look_up(name, kinds)
    if isinstance(served, EmbedfleetError):
        raise WrongModel(str(served))
    if served.status.refuses:
        raise WrongModel(f"{served.config.name} is unavailable: {served.status.reason}")
    if served.spec is None:
        raise StillLoading(f"{served.config.name} is still loading")
    return JobModel(app, served)


def wait_for_model(  # noqa: PLR0913, PLR0917
    name: str,
    kinds: Sequence[Kind],
    wait_s: float,
    say: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> JobModel:
    """As `find_model`, but waits up to ``wait_s`` for a model that is still loading, and says so.

    Once it was seen to load, a service that does not answer for a while is waited for as well.
    """
    deadline, said = clock() + wait_s, ""
    while True:
        try:
            return find_model(name, kinds)
        except WrongModel:
            raise
        except JobError as error:
            is_loading = isinstance(error, StillLoading)
            if not is_loading and (not said or clock() >= deadline):
                raise
            if clock() >= deadline:
                raise JobError(
                    f"{error} after {wait_s:g} s; `embedfleet models` shows its state"
                ) from error
            if str(error) != said:
                said = str(error)
                say(f"waiting for the model: {said}")
        sleep(_LOADING_EVERY_S)


def why_waiting(model: JobModel) -> str | None:
    """Returns what a job's calls wait for; None if its model is ready."""
    try:
        served = asyncio.run(_ask(model.app, model.served.config.name, tuple(Kind)))
    except RayServeException:
        return "the service has stopped"
    except Exception as error:  # any error: the job's own calls decide whether it fails
        return f"the service does not answer ({error!r})"
    if isinstance(served, EmbedfleetError):
        return str(served)
    why = _unready(served.status)
    return why and f"{served.config.name} is {why}"


def _unready(status: ModelStatus) -> str | None:
    if status.state is ModelState.READY:
        return None
    return f"{status.state}: {status.reason}" if status.reason else str(status.state)


def _look_up(name: str, kinds: Sequence[Kind]) -> tuple[str, ServedModel | EmbedfleetError]:
    try:
        app = _application()
        return app, asyncio.run(_ask(app, name, kinds))
    except (RayTaskError, AuthenticationError) as error:
        cause = error.cause if isinstance(error, RayTaskError) else error
        raise WrongModel(
            f"the service failed to say what it serves: {cause!r}; see its logs"
        ) from error
    except (RayError, RayServeException, AioRpcError, OSError) as error:
        raise JobError(
            f"the service does not answer ({error!r}); it may be starting or overloaded: look at "
            "`serve status`, then run the command again"
        ) from error


async def _ask(app: str, name: str, kinds: Sequence[Kind]) -> ServedModel | EmbedfleetError:
    """Runs inside an event loop: in Serve's throughput mode, a handle routes in that loop."""
    if app not in applications():  # else the handle would wait for it
        raise RayServeException(f"Serve has no application {app!r}")
    forget_ended_serve()  # or the handle would belong to a Serve that was shut down
    handle: DeploymentHandle = DeploymentHandle(_ROUTER, app)
    answer: ServedModel | EmbedfleetError = await asyncio.wait_for(
        handle.served.remote(name, tuple(kinds)), _ANSWER_TIMEOUT_S
    )
    return answer


def applications() -> Mapping[str, Any]:
    """Returns what Serve says of each application; nothing if Serve does not run.

    Raises GetTimeoutError if Serve's controller does not answer.
    """
    try:
        return application_details(_CONTROLLER_TIMEOUT_S)
    except ValueError:  # there is no controller
        return {}


def _application() -> str:
    for name, app in applications().items():
        deployments = app["deployments"]
        if _ROUTER in deployments and any(d.startswith("encoder-") for d in deployments):
            return str(name)
    address = ray.get_runtime_context().gcs_address
    raise JobError(
        f"Ray runs at {address}, but the service does not; start it with `embedfleet serve`"
    )
