"""Where the service listens: whether the port is free, and when somebody answers there."""

from __future__ import annotations

import errno
import socket
import subprocess
import time
from contextlib import suppress
from typing import Any

import httpx

from cluster.arguments import DEFAULT_URL
from cluster.service.tables import models_table
from deployments.api.auth import ApiKeys
from deployments.core.routing.facts import ModelState

_READY_TIMEOUT_S = 600.0
_LOOK_S = 0.25
_UNABLE_EVERY_S = 2.0
_ROUTES_TIMEOUT_S = 1.0


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


def is_serve(url: str) -> bool:
    """Whether Ray Serve answers there: its proxies list their routes as a JSON object."""
    try:
        response = _get(f"{url}/-/routes", timeout=_ROUTES_TIMEOUT_S)
        return response.is_success and isinstance(response.json(), dict)
    except (httpx.HTTPError, ValueError):
        return False


def announce(child: subprocess.Popen[bytes], url: str) -> None:
    """Says once the service answers, and until then why no model can, or that it takes long."""
    started, unable = time.monotonic(), _Unable(url)
    while child.poll() is None:
        waited = time.monotonic() - started
        if _is_ready(url):
            print(f"embedfleet: ready after {waited:.0f} s at {url}", flush=True)
            with suppress(httpx.HTTPError):  # told to stop in this moment
                print(models_of(url), flush=True)
            _tell_of_the_rest(child, url)
            return
        unable.look(is_late=waited > _READY_TIMEOUT_S)
        time.sleep(_LOOK_S)


def _tell_of_the_rest(child: subprocess.Popen[bytes], url: str) -> None:
    """Says what becomes of the models that were still starting when the first one was ready."""
    starting, ends = _starting(_listed(url)), time.monotonic() + _READY_TIMEOUT_S
    while starting and child.poll() is None and time.monotonic() < ends:
        time.sleep(_UNABLE_EVERY_S)
        models = _listed(url)
        if models and starting - (left := _starting(models)):
            starting = left
            print(models_table(models), flush=True)


def _starting(models: list[dict[str, Any]]) -> set[str]:
    return {model["id"] for model in models if model["state"] == ModelState.STARTING}


def _listed(url: str) -> list[dict[str, Any]]:
    """Returns the models as the service shows them; none where it does not say."""
    try:
        response = _models(url)
        return list(response.json()["data"]) if response.is_success else []
    except (httpx.HTTPError, ValueError, KeyError):
        return []


class _Unable:
    """Says of a service that is not ready why no model can run, again only once a reason is new."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._said: dict[str, str | None] | None = None
        self._looked_at = -_UNABLE_EVERY_S

    def look(self, is_late: bool) -> None:
        """Looks now and then; once it is late, it speaks of any state, if it has not before."""
        command, now = _models_command(self._url), time.monotonic()
        if now - self._looked_at >= _UNABLE_EVERY_S:
            self._looked_at = now
            models = _unavailable(self._url)
            reasons = {model["id"]: model["reason"] for model in models}
            if reasons and reasons != self._said:
                self._said = reasons
                print(f"embedfleet: no model can run yet; `{command}` shows the latest", flush=True)
                print(models_table(models), flush=True)
        if is_late and self._said is None:
            self._said = {}
            print(f"embedfleet: no model is ready yet; `{command}` says why", flush=True)


def _unavailable(url: str) -> list[dict[str, Any]]:
    """Returns the models if each of them is unavailable; none where one may be ready soon."""
    models = _listed(url)
    return models if all(m["state"] == ModelState.UNAVAILABLE for m in models) else []


def _models_command(url: str) -> str:
    return "embedfleet models" if url == DEFAULT_URL else f"embedfleet models --url {url}"


def _is_ready(url: str) -> bool:
    try:
        return _get(f"{url}/ready", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def models_of(url: str) -> str:
    """Returns the models of a service as a table, or why they are not shown."""
    response = _models(url)
    if response.is_success:
        return models_table(response.json()["data"])
    return (
        f"embedfleet: its models are not shown: /v1/models answers {response.status_code}; set "
        f"EMBEDFLEET_API_KEY to a key of the service and run `{_models_command(url)}`"
    )


def _models(url: str) -> httpx.Response:
    header = ApiKeys.from_environment().authorization
    headers = [(b"authorization", header)] if header else []
    return _get(f"{url}/v1/models", headers=headers, timeout=10.0)


def _get(url: str, **more: Any) -> httpx.Response:
    """Without a look at the certificate, which is our own and names the host that others ask for, and
    through no proxy: it is this machine.
    """
    return httpx.get(url, verify=False, trust_env=False, **more)
