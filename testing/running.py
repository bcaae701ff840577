"""Starts the real service as a user does, on free ports and in a Ray of its own."""

from __future__ import annotations

import importlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ray
import yaml

from cluster.service.ports import free_block
from deployments.config.schema import ModelConfig
from deployments.core.errors import EmbedfleetError
from deployments.core.models.describing import described
from deployments.core.models.loading import find_model
from testing.waiting import until

API_KEY = "test-key"
CONFIG_FILE = "serve_config.yaml"
_START_TIMEOUT_S = 300.0  # a busy machine takes two minutes


@dataclass(frozen=True)
class RunningService:
    """A service under test."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def client(self, timeout_s: float = 60.0) -> httpx.Client:
        """Returns an HTTP client that sends the key."""
        headers = {"authorization": f"Bearer {API_KEY}"}
        # plain HTTP: loading the certificates takes each client 30 ms
        return httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, verify=False)

    @property
    def ray_address(self) -> str:
        """The address of the service's own Ray; other Rays may run on this machine."""
        session = self.log.parent / "ray" / "session_latest"
        (file,) = session.glob("gcs_server_port_*")
        return f"{ray.util.get_node_ip_address()}:{file.read_text()}"

    def states(self) -> dict[str, str]:
        """Returns each model's state."""
        with self.client() as http:
            return {m["id"]: m["state"] for m in http.get("/v1/models").json()["data"]}

    def metric(self, name: str, model: str = "") -> list[float]:
        """Returns the values of a metric, one for each series (of one model, if named)."""
        with self.client() as http:
            lines = http.get("/metrics").text.splitlines()
        label = model and f'"{model}"'
        ours = [line for line in lines if line.startswith(name + "{") and label in line]
        return [float(line.rsplit(" ", 1)[1]) for line in ours]


def free_port() -> int:
    """Returns a port that nobody listens on and that no outgoing connection will get.

    Outgoing connections get ports from 32,768 up; Ray's workers and replicas listen on 10,002 to 31,000.
    """
    while True:
        port = random.randrange(31_001, 32_768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("0.0.0.0", port))
            return port


def config(
    models: Sequence[Mapping[str, Any]],
    port: int,
    app: Mapping[str, Any] | None = None,
    **args: Any,
) -> dict[str, Any]:
    """Returns a Serve config of these models, each with a small share of a CPU.

    ``app`` holds further fields of the application, such as ``deployments``.
    """
    small = [{"num_cpus": 0.1, "threads": 1, **model} for model in models]
    return {
        "proxy_location": "HeadOnly",  # several nodes on one machine cannot share the port
        "http_options": {"host": "127.0.0.1", "port": port},
        "logging_config": {"enable_access_log": False},
        "applications": [
            {
                "name": "embedfleet",
                "import_path": "deployments.app:build",
                "route_prefix": "/",
                "args": {"models": small, "router_cpus": 0.1, **args},
                **(app or {}),
            }
        ],
    }


@contextmanager
def running_service(
    models: Sequence[Mapping[str, Any]],
    wait_for: Sequence[str],
    path: str = "auto",
    environment: Mapping[str, str | None] | None = None,
    app: Mapping[str, Any] | None = None,
    **args: Any,
) -> Iterator[RunningService]:
    """Runs ``embedfleet serve``; yields it once the models of ``wait_for`` are ready."""
    describe_in_advance(models)
    port, folder = free_port(), short_folder()
    file = folder / CONFIG_FILE
    file.write_text(yaml.safe_dump(config(models, port, app, **args)))
    with serving([str(file), "--path", path], port, wait_for, environment, folder) as service:
        yield service


@contextmanager
def serving(
    arguments: Sequence[str],
    port: int,
    wait_for: Sequence[str],
    environment: Mapping[str, str | None] | None = None,
    folder: Path | None = None,
) -> Iterator[RunningService]:
    """Does so with any ``arguments``, which must include ``port``; removes ``folder`` at the end.

    A variable of ``environment`` that is None is left unset.
    """
    folder = folder or short_folder()
    log = folder / "log"
    whole = {**environment_in(folder), **(environment or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "serve", *arguments],
            env={k: v for k, v in whole.items() if v is not None},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    service = RunningService(f"http://127.0.0.1:{port}", log, process)
    try:
        wait_until_ready(service, wait_for)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)  # the second one ends it at once
        try:
            process.wait(60)
        finally:
            process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def describe_in_advance(models: Sequence[Mapping[str, Any]]) -> None:
    """Describes the models of local folders here, instead of in a process that takes seconds to start."""
    importlib.import_module("transformers")  # where it is loaded, no other process is asked
    for model in models:
        config = ModelConfig.model_validate(model)
        if not config.path or not Path(config.path).is_dir():
            continue  # a hub that cannot be reached is asked for minutes
        with suppress(EmbedfleetError):
            described(find_model(config.name, config.path, config.revision, config.overrides))


def short_folder() -> Path:
    """Makes a folder for Ray's Unix sockets, whose paths have a hundred characters at most."""
    return Path(tempfile.mkdtemp(prefix="ef-"))


def environment_in(folder: Path) -> dict[str, str]:
    """Returns the environment of a Ray that shares nothing with others on this machine."""
    # two services on one machine would share these ports and take each other's requests
    ports = free_block()
    ours = {
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports + 90),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(ports + 91),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(ports),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(ports + 89),
        "RAY_TMPDIR": str(folder),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports + 92),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports + 93),
        "EMBEDFLEET_API_KEYS": API_KEY,
        "HF_HUB_OFFLINE": "1",
        "RAY_metrics_report_interval_ms": "2500",
        "PYTHONUNBUFFERED": "1",
    }
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "PYTEST_CURRENT_TEST")}
    return {**kept, **ours}


def wait_until_ready(service: RunningService, models: Sequence[str]) -> None:
    """Returns once these models are ready. Raises RuntimeError with the log if they never are."""

    def ready() -> bool:
        assert service.process.poll() is None, "it has ended"
        with suppress(httpx.HTTPError, KeyError, ValueError):
            states = service.states()
            return all(states[name] == "ready" for name in models)
        return False

    try:
        until(ready, _START_TIMEOUT_S, "ready")
    except AssertionError as why:
        log = service.log.read_text()[-5000:]
        raise RuntimeError(f"the service did not start, {why}:\n{log}") from why
