"""Where the service listens: whether the port is free, and when somebody answers there."""

from __future__ import annotations

import errno
import socket
import subprocess
import time
from contextlib import suppress
from typing import Any

import httpx

from cluster.tables import models_table
from deployments.api.auth import ApiKeys

_READY_TIMEOUT_S = 600.0


def why_not(host: str, port: int) -> OSError | None:
    """Returns the error that keeps a service from listening at a host's port, None if it can."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return error
    errors = [_bind(family, address) for family, _, _, _, address in found]
    taken = [e for e in errors if e is not None and e.errno == errno.EADDRINUSE]
    if taken:
        return taken[0]
    # a name may have addresses of a family that this machine does not speak
    return None if None in errors else errors[0]


def _bind(family: int, address: tuple[object, ...]) -> OSError | None:
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return error
    return None


def url_of(host: str, port: int, tls: bool = False) -> str:
    """Returns the address at which this machine reaches a service that listens there."""
    own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if tls else "http"
    return f"{scheme}://[{own}]:{port}" if ":" in own else f"{scheme}://{own}:{port}"


def announce(child: subprocess.Popen[bytes], url: str) -> None:
    """Says once the service answers, or that it takes longer than it should."""
    started = time.monotonic()
    while child.poll() is None and time.monotonic() - started < _READY_TIMEOUT_S:
        if _is_ready(url):
            print(
                f"embedfleet: ready after {time.monotonic() - started:.0f} s at {url}", flush=True
            )
            with suppress(httpx.HTTPError):  # told to stop in this moment
                print(models_of(url), flush=True)
            return
        time.sleep(0.25)
    if child.poll() is None:
        print("embedfleet: no model is ready yet; `embedfleet models` says why", flush=True)


def _is_ready(url: str) -> bool:
    try:
        return _get(f"{url}/ready", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def models_of(url: str) -> str:
    """Returns the models of a service as a table, or why they are not shown."""
    header = ApiKeys.from_environment().authorization
    headers = [(b"authorization", header)] if header else []
    response = _get(f"{url}/v1/models", headers=headers, timeout=10.0)
    if response.is_success:
        return models_table(response.json()["data"])
    return (
        f"embedfleet: its models are not shown: /v1/models answers {response.status_code}; set "
        "EMBEDFLEET_API_KEY to a key of the service and run `embedfleet models`"
    )


def _get(url: str, **more: Any) -> httpx.Response:
    """Without a look at the certificate: it is our own, and names the host that others ask for."""
    return httpx.get(url, verify=False, **more)
