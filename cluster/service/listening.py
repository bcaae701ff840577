"""Where the service listens: whether the port is free, and what to print until its models run."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Collection
from typing import Any, Protocol

from cluster.arguments import DEFAULT_URL
from cluster.service.http import KeyRefused, Service, ServiceError
from cluster.service.tables import models_table
from deployments.api.auth import listed_keys
from deployments.core.routing.facts import ModelState

_SLOW_S = 30.0  # after which the wait is explained, and then every minute
_LATE_S = 600.0  # until the first model is ready, and then until the others are
# how often the service is asked: often while it may be ready any moment
_SOON_S, _SOON_EVERY_S = 10.0, 0.25
_UNTIL_READY_EVERY_S = 1.0
_AFTERWARDS_EVERY_S = 2.0
_KEY = "EMBEDFLEET_API_KEY"


def why_not(host: str, port: int) -> OSError | None:
    """Returns the error that keeps a service from listening at this host and port, if there is one."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return error
    errors = [_bind(family, address) for family, _, _, _, address in infos]
    taken = [e for e in errors if e is not None and e.errno == errno.EADDRINUSE]
    if taken:
        return taken[0]
    # a name may have addresses of a family that this machine does not support
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
    """Returns the URL at which this machine reaches a service that listens there."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if tls else "http"
    return (
        f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"
    )


def our_service(url: str) -> Service:
    """Returns a client of the service that this machine runs, with a key of its environment.

    That is ``EMBEDFLEET_API_KEY`` if the service accepts it, so that the line to try works as it is.

    A file of tenants holds no keys, only their hashes, so there ``EMBEDFLEET_API_KEY`` has to be set.
    """
    keys, key = listed_keys(), os.environ.get(_KEY)
    if keys and key not in keys:
        key = keys[0]
    return Service(url, key or None, is_ours=True)


class Process(Protocol):
    """The part of ``subprocess.Popen`` that is needed here."""

    def poll(self) -> int | None:
        """Returns the exit status, or None while the process runs."""


def announce(
    child: Process,
    service: Service,
    expected: Collection[str],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Prints when the service is ready, why it is not, and when its other models have started.

    ``expected`` has the names of the models that it may list, unless these are unknown. If it lists any
    other, another service answers at this address. Returns once there is nothing more to report, or the
    child has ended.
    """
    started, progress = clock(), _Progress(service, expected)
    while child.poll() is None and progress.look(waited := clock() - started):
        sleep(_pause_s(progress.is_ready, waited))


def _pause_s(is_ready: bool, waited_s: float) -> float:
    if is_ready:
        return _AFTERWARDS_EVERY_S
    return _SOON_EVERY_S if waited_s < _SOON_S else _UNTIL_READY_EVERY_S


class _Progress:
    """Prints each change of a starting service once."""

    def __init__(self, service: Service, expected: Collection[str]) -> None:
        self.is_ready = False
        self._service = service
        self._expected = tuple(expected)
        self._strangers: frozenset[str] = frozenset()
        self._is_key_refused = False
        self._explains_at_s = _SLOW_S
        self._reasons: dict[str, str | None] | None = None  # as last printed
        self._starting: set[str] = set()
        self._ends_s = 0.0

    def look(self, waited_s: float) -> bool:
        """Prints what is new. Returns whether there may be more to report."""
        if self.is_ready:
            self._report_started_models()
            return bool(self._starting) and waited_s < self._ends_s
        if not self._service.is_ready():
            self._report_why_not(waited_s)
            return True
        if self._is_another_service():
            return True
        self.is_ready, self._ends_s = True, waited_s + _LATE_S
        _print(f"embedfleet: ready after {waited_s:.0f} s at {self._service.url}")
        self._report_all_models()
        _print(_how_to_call(self._service, self._is_key_refused))
        return bool(self._starting)

    def _is_another_service(self) -> bool:
        if not self._expected:  # an app of somebody else
            return False
        strangers = frozenset(model["id"] for model in self._models()) - set(self._expected)
        if strangers and strangers != self._strangers:
            _print(
                f"embedfleet: another service answers at {self._service.url}: it serves "
                f"{', '.join(sorted(strangers))}, which this config does not name"
            )
        self._strangers = strangers
        return bool(strangers)

    def _report_all_models(self) -> None:
        try:
            models = self._service.models()
        except KeyRefused:  # the service knows its keys by their hashes
            self._is_key_refused = True
            if self._expected:
                _print(
                    f"embedfleet: models: {', '.join(self._expected)}; with a key, `{self._command}` "
                    "shows their states"
                )
            return
        except ServiceError as error:
            _print(f"embedfleet: cannot list the models: {error}")
            return
        self._starting = _starting(models)
        _print(models_table(models))

    def _report_started_models(self) -> None:
        models = self._models()
        still_starting = _starting(models)
        if models and self._starting - still_starting:
            self._starting = still_starting
            _print(models_table(models))

    def _report_why_not(self, waited_s: float) -> None:
        models = self._models()
        reasons = {model["id"]: model["reason"] for model in models}
        # a model in any other state may be ready soon
        none_can_run = models and all(m["state"] == ModelState.UNAVAILABLE for m in models)
        if none_can_run and reasons != self._reasons:
            self._reasons = reasons
            _print(f"embedfleet: no model can run yet; `{self._command}` shows the current state")
            _print(models_table(models))
        elif waited_s >= self._explains_at_s and waited_s <= _LATE_S:
            self._explains_at_s += 2 * _SLOW_S
            states = [f"{model['id']} is {model['state']}" for model in models]
            reason = ", ".join(states) or self._why_unknown()
            _print(f"embedfleet: still starting after {waited_s:.0f} s: {reason}")
        elif waited_s > _LATE_S and self._reasons is None:
            self._reasons = {}
            _print(f"embedfleet: no model is ready yet; `{self._command}` shows why")

    def _models(self) -> list[dict[str, Any]]:
        """Returns no models if the service does not list them."""
        try:
            return self._service.models()
        except ServiceError as error:
            self._is_key_refused = isinstance(error, KeyRefused)
            return []

    def _why_unknown(self) -> str:
        if self._is_key_refused:
            return f"with a key, `{self._command}` shows the states of its models"
        return "the routers do not answer yet"

    @property
    def _command(self) -> str:
        url = self._service.url
        return "embedfleet models" if url == DEFAULT_URL else f"embedfleet models --url {url}"


def _how_to_call(service: Service, is_key_refused: bool) -> str:
    needs_key = service.has_key or is_key_refused
    key = f'-H "Authorization: Bearer ${_KEY}" ' if needs_key else ""
    # the key that has listed the models may be from another variable, or there was none
    is_set = os.environ.get(_KEY) == service.api_key and not is_key_refused
    step = f"put one of the keys into {_KEY} and " if needs_key and not is_set else ""
    body = '{"input": "What is the capital of France?"}'
    return (
        f"\nembedfleet: the API is described at {service.url}/docs; {step}try\n\n"
        f"  curl -s {service.url}/v1/embeddings {key}-H 'content-type: application/json' -d '{body}'\n"
    )


def _starting(models: list[dict[str, Any]]) -> set[str]:
    return {model["id"] for model in models if model["state"] == ModelState.STARTING}


def _print(text: str) -> None:
    print(text, flush=True)
