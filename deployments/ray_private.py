"""Every use of Ray's private interfaces, one function each.

Ray may change these without notice. What is here was read in the source of Ray 2.60; no other module of
`deployments` or `cluster` uses a private name of Ray. To move to another version of Ray, read the source
behind each function, run tests/unit/test_ray_private.py, then change `WRITTEN_FOR`.

Ray is imported inside the functions.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

WRITTEN_FOR = "2.60"
_SERVE_CONTROLLER = "ray::ServeController"  # the title of its process
_GCS_FLAG = "--gcs-address="  # of each raylet


def check_ray_version(installed: str) -> None:
    """Raises ImportError if ``installed`` is of another minor version than this module was written for.

    An error rather than a warning: the functions below would fail later and less clearly, or return
    wrong numbers.
    """
    if installed.split(".")[:2] != WRITTEN_FOR.split("."):
        raise ImportError(
            f"Ray {installed} is installed, but deployments/ray_private.py uses private interfaces of "
            f"Ray {WRITTEN_FOR}. Install ray>={WRITTEN_FOR},<2.61, or adapt that module."
        )


check_ray_version(version("ray"))


def known_replicas(handle: DeploymentHandle) -> frozenset[str]:
    """Returns the ids of the replicas that the handle can call; none if none runs, or none is known yet.

    The controller pushes this list to the handle, so reading it costs nothing. `serve.status` takes some
    15 ms of this process, and more with each deployment (benchmarks/log/2026-11.md). The public
    `running_replicas_populated` says only whether the list has arrived.
    """
    router = handle._router
    requests = router._asyncio_router._request_router if router else None
    return (
        frozenset(r.to_full_id_str() for r in requests.curr_replicas) if requests else frozenset()
    )


def labels_match(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Returns whether a node with these labels satisfies Ray's `label_selector`."""
    from ray._raylet import node_labels_match_selector  # type: ignore[attr-defined]

    return bool(node_labels_match_selector(dict(labels), dict(selector)))


def application_details(timeout_s: float) -> dict[str, Any]:
    """Returns what Serve's controller says of each application, by name.

    `serve.status` asks the same, but waits without a limit for a controller that does not answer. Raises
    GetTimeoutError after ``timeout_s``, and what Ray raises if the controller or Serve does not run.
    """
    applications: dict[str, Any] = _instance_details(timeout_s)["applications"]
    return applications


def http_port(timeout_s: float) -> int:
    """Returns the port on which Serve listens. Raises as `application_details`."""
    return int(_instance_details(timeout_s)["http_options"]["port"])


def _instance_details(timeout_s: float) -> dict[str, Any]:
    import ray

    details: dict[str, Any] = ray.get(
        _controller().get_serve_instance_details.remote(), timeout=timeout_s
    )
    return details


def delete_applications(names: list[str]) -> None:
    """Makes Serve's controller delete these applications, and does not wait for it."""
    _controller().delete_apps.remote(names)


def serve_instance() -> str | None:
    """Returns which Serve runs: the id of its controller, new after each shutdown; None if none runs.

    A controller that is killed comes back under its id, and handles stay valid.
    """
    try:
        instance: str = _controller()._actor_id.hex()
    except ValueError:
        return None
    return instance


def forget_ended_serve() -> None:
    """Makes this process look for Serve's controller again if the one that it knows was shut down.

    Serve itself would keep calling the dead one.
    """
    from ray.serve import context

    client = context._global_client
    if client is not None and client._controller._actor_id.hex() != serve_instance():
        context._set_global_client(None)


def _controller() -> Any:
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)


def logs_folder() -> str:
    """Returns the folder of the logs of the Ray that this process is connected to, on this machine."""
    from ray._private import worker

    folder: str = worker._global_node.get_logs_dir_path()
    return folder


def session_root() -> str:
    """Returns the folder in which this node's Ray keeps its sessions."""
    from ray._private import worker

    folder: str = worker._global_node.get_temp_dir_path()
    return folder


def started_by_hand() -> str | None:
    """Returns the address of the Ray that `ray start` has started on this machine; None without one."""
    from ray._private.utils import read_ray_address

    return read_ray_address() or None


def own_ray() -> dict[str, subprocess.Popen[bytes]]:
    """Returns the processes of the Ray that this process has started and cannot do without, by name.

    There are none if it has joined a cluster that runs.
    """
    from ray._private import worker

    node = worker._global_node
    if node is None or not node.is_head():
        return {}
    return {name: node.all_processes[name][0].process for name in ("raylet", "gcs_server")}


def kill_own_ray() -> None:
    """Kills every process of the Ray that this process has started, at once."""
    from ray._private import worker

    worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)


def silence_token_warning() -> None:
    """Keeps Ray from warning at each start that it asks for its token, which is in the docs."""
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


def keep_token_private() -> None:
    """Makes Ray's token readable by its owner alone, whether it exists or Ray creates it later."""
    from ray._private.authentication import authentication_token_setup as setup

    with suppress(OSError):  # there is none yet, or it is somebody else's
        setup._get_default_token_path().chmod(0o600)
    generate = setup.generate_and_save_token

    def generate_privately() -> None:
        umask = os.umask(0o077)
        try:
            generate()
        finally:
            os.umask(umask)

    setup.generate_and_save_token = generate_privately


def start_serve(config: Mapping[str, Any], proxies_s: float) -> None:
    """Starts Serve in this process's Ray and deploys a config, as ``serve run`` does.

    Ray would wait for the proxies of Serve before it starts the application, which takes seconds; here
    they start at the same time. Waits for the proxies for up to ``proxies_s``, but not for the models.
    If they fail, the application is deleted. Raises TimeoutError and RayError.
    """
    import ray
    from ray.serve._private import api
    from ray.serve.config import gRPCOptions
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(config)
    with _without_waiting_for_proxies() as proxies:
        client = api.serve_start(
            http_options=schema.http_options.model_dump(),
            grpc_options=gRPCOptions(**schema.grpc_options.model_dump()),
            controller_options=schema.controller_options,
            proxy_location=schema.proxy_location,
        )
    client.deploy_apps(schema, _blocking=False)
    try:
        ray.get(proxies, timeout=proxies_s)
    except ray.exceptions.RayError as error:  # a time-out, or a proxy that has failed
        # Ray may outlive this process, and nothing may keep loading models there
        with suppress(Exception):
            client.delete_apps([app.name for app in schema.applications], blocking=False)
        if isinstance(error, ray.exceptions.GetTimeoutError):
            raise TimeoutError(
                f"Serve's proxies have not started within {proxies_s:g} s"
            ) from error
        raise


@contextmanager
def _without_waiting_for_proxies() -> Iterator[list[Any]]:
    """Makes `serve_start` return as soon as the controller runs; yields what to wait for instead."""
    from ray.serve._private import api

    create, proxies = api._create_controller_and_proxy_refs, list[Any]()

    def create_only(*args: Any, **options: Any) -> tuple[Any, list[Any]]:
        controller, ready = create(*args, **options)
        proxies.extend(ready)
        return controller, []

    api._create_controller_and_proxy_refs = create_only
    try:
        yield proxies
    finally:
        api._create_controller_and_proxy_refs = create


def request_id() -> str:
    """Returns the id that Serve gave to the request that this replica is answering."""
    from ray.serve.context import _get_serve_request_context

    return str(_get_serve_request_context().request_id)


def replace_access_log() -> bool:
    """Drops the lines of Serve's own access log in this replica; returns whether it was switched on.

    Serve switches it off by a filter on its handlers, for which each line must first be made: that takes
    3% of a short request's processor time.
    """
    from ray.serve._private import replica
    from ray.serve._private.logging_utils import log_access_log_filter

    handlers = logging.getLogger("ray.serve").handlers
    is_on = not any(log_access_log_filter in handler.filters for handler in handlers)
    replica.logger = _WithoutAccessLog(replica.logger)
    return is_on


class _WithoutAccessLog(logging.LoggerAdapter[logging.Logger]):
    """A logger that makes no records of Serve's access log."""

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Logs anything else."""
        extra = kwargs.get("extra")
        if not (extra and extra.get("serve_access_log")):
            self.logger.log(level, msg, *args, **{"stacklevel": 2, **kwargs})


def local_rays() -> list[str]:
    """Returns the address of each Ray whose head runs on this machine.

    Lets this process send its token to them, as ``ray.init("auto")`` does and an address does not.
    """
    from ray._private.authentication import authentication_token_setup
    from ray._private.services import find_gcs_addresses

    silence_token_warning()
    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    find_gcs_addresses.cache_clear()
    return sorted(find_gcs_addresses())


def rays_with_serve() -> list[str]:
    """Returns those of `local_rays` on whose head Serve's controller runs."""
    psutil = _psutil()
    named = psutil.process_iter(["cmdline"])
    controllers = [p for p in named if (p.info["cmdline"] or [""])[0].startswith(_SERVE_CONTROLLER)]
    return sorted({address for p in controllers if (address := _ray_above(p))})


def ray_that_listens(port: int) -> str | None:
    """Returns the address of the Ray one of whose processes listens on this port, if it can be seen."""
    psutil = _psutil()
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == "LISTEN" and connection.laddr.port == port and connection.pid:
                return _ray_above(psutil.Process(connection.pid))
    return None


def _ray_above(process: Any) -> str | None:
    """Returns the address that the raylet above a process got as a flag; None without one."""
    with suppress(_psutil().Error):
        for parent in process.parents():
            for word in parent.cmdline():
                if word.startswith(_GCS_FLAG):
                    return str(word.removeprefix(_GCS_FLAG))
    return None


def _psutil() -> Any:
    """Returns psutil, of which Ray has a copy, without importing Ray, which takes seconds."""
    ray = importlib.util.find_spec("ray")
    if ray is not None and ray.origin and importlib.util.find_spec("psutil") is None:
        sys.path.append(str(Path(ray.origin).with_name("thirdparty_files")))
    return importlib.import_module("psutil")


class KeyValueStore:
    """Ray's key-value store in the GCS (and in Redis, if the cluster has one), within one namespace.

    It outlives each process but the head. Each method blocks until the store has answered.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def put(self, key: str, value: str | bytes, *, overwrite: bool = True) -> None:
        """Writes a value; over a previous one only with ``overwrite``."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(key, value, overwrite=overwrite, namespace=self._namespace)

    def get(self, key: str) -> bytes | None:
        """Returns a value; None if the key is not there."""
        from ray.experimental import internal_kv

        value: bytes | None = internal_kv._internal_kv_get(key, namespace=self._namespace)
        return value

    def delete(self, key: str) -> None:
        """Removes a key, if it is there."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(key, namespace=self._namespace)

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys that begin with ``prefix``."""
        from ray.experimental import internal_kv

        keys = internal_kv._internal_kv_list(prefix, namespace=self._namespace)
        return [key.decode() for key in keys]
