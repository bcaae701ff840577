"""Runs Serve with a config file, and answers the requests under way before it stops.

`embedfleet serve` runs it, since the environment has to be set before Ray is imported. Serve's own
shutdown ends the proxies first, and with them every open connection.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
import yaml
from ray import serve
from ray.serve.handle import DeploymentHandle

from cluster.service.environment import private_folder
from cluster.service.fate_sharing import signal_when_parent_ends
from cluster.service.watch import Watch, process_end, socket_end
from deployments.ray_private import (
    application_details,
    delete_applications,
    keep_token_private,
    kill_own_ray,
    logs_folder,
    own_ray,
    silence_token_warning,
    start_serve,
    started_by_hand,
)

_NAMESPACE = "serve"  # Serve's own, in which other processes look for its controller
_ROUTER = "router"
_CONTROLLER_S = 10.0  # for one answer of Serve's controller
_FIND_ROUTERS_S = 5.0
_LAST_BYTES_S = 0.3  # of answers that routers have given, on their way to the callers
_DRAIN_S = 600.0  # a router keeps to its requests' own deadlines
_DELETE_S = 60.0
_PROXIES_S = 300.0  # until Serve's proxies have started on a busy machine


class Service:
    """Serve on the Ray that runs already, or on one of its own."""

    def __init__(self) -> None:
        self._watch: Watch | None = None

    def run(self, config: Path) -> int:
        """Runs until SIGINT, then stops in order. Returns the exit status: 1 if it cannot start."""
        atexit.register(self.stop_watching)  # runs before Ray's own, which was registered earlier
        try:
            self._start(yaml.safe_load(config.read_text()))
            threading.Event().wait()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            self.stop()
        except Exception as error:
            print(f"embedfleet: the service cannot start: {_first_line(error)}", file=sys.stderr)
            return 1
        return 0

    def _start(self, config: dict[str, Any]) -> None:
        silence_token_warning()
        # what Ray's processes print is in their logs, too
        ray.init(
            namespace=_NAMESPACE,
            logging_level=logging.WARNING,
            log_to_driver=False,
            **_private_sessions(),
        )
        # Ray's core has its own handler now, which prints a stack
        signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
        self._watch = _watch()
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        address = ray.get_runtime_context().gcs_address
        print(f"embedfleet: Ray at {address}, logs in {logs_folder()}", flush=True)
        start_serve(config, _PROXIES_S)

    def stop(self) -> None:
        """Lets the routers finish first: they need their replicas, and their callers the proxies."""
        if not ray.is_initialized():
            return
        try:
            self._drain()
            if not own_ray():  # else nothing else runs on it
                _delete(list(application_details(_CONTROLLER_S)))
                serve.shutdown()
        except Exception as error:  # it stops whatever fails
            print(f"embedfleet: stopping without order: {error!r}", file=sys.stderr)
        self.stop_watching()
        ray.shutdown()

    def _drain(self) -> None:
        applications = application_details(_CONTROLLER_S)
        ours = [name for name, app in applications.items() if _ROUTER in app["deployments"]]
        asyncio.run(_drain_routers(ours))
        # the loop that has just ended is an error to Serve's clients in this process
        logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
        time.sleep(_LAST_BYTES_S)

    def stop_watching(self) -> None:
        """Call it before Ray is stopped on purpose."""
        if self._watch is not None:
            self._watch.stop()


def _private_sessions() -> dict[str, str]:
    """Returns the option that puts the session of a Ray of our own below a folder of this user alone.

    Ray lets every user of the machine write to its session folders, and so run code as the service.
    """
    if "RAY_TMPDIR" in os.environ or "RAY_ADDRESS" in os.environ or started_by_hand():
        return {}
    return {"_temp_dir": str(private_folder() / "ray")}


def _watch() -> Watch:
    if own := own_ray():
        return Watch(partial(process_end, own), kill_own_ray)
    return Watch(partial(socket_end, _raylet_socket()), lambda: None)


async def _drain_routers(apps: list[str]) -> None:
    outcomes = await asyncio.gather(*map(_drain_routers_of, apps), return_exceptions=True)
    for app, error in zip(apps, outcomes, strict=True):
        if error is not None:
            print(f"embedfleet: {app} could not be drained: {error!r}", file=sys.stderr)


async def _drain_routers_of(app: str) -> None:
    handle: DeploymentHandle = DeploymentHandle(_ROUTER, app)
    try:
        async with asyncio.timeout(_FIND_ROUTERS_S):
            await handle.models.remote()  # a new handle knows no replicas until it has been used
        # one that has died meanwhile ends no other's wait
        await handle.broadcast("drain").results_async(timeout_s=_DRAIN_S, return_exceptions=True)
    finally:
        await handle.shutdown_async()


def _delete(apps: list[str]) -> None:
    delete_applications(apps)
    deadline = time.monotonic() + _DELETE_S
    while set(apps) & application_details(_CONTROLLER_S).keys():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{', '.join(apps)} still run after {_DELETE_S:g} s")
        time.sleep(0.2)


def _raylet_socket() -> Path:
    node = ray.get_runtime_context().get_node_id()
    (path,) = (n["RayletSocketName"] for n in ray.nodes() if n["NodeID"] == node)
    return Path(path)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else repr(error)


def main() -> None:
    """Runs until SIGINT; the argument is a config file."""
    signal_when_parent_ends(signal.SIGTERM)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # in the background of a terminal it may write
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    keep_token_private()
    sys.exit(Service().run(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
