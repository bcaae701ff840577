"""What wraps the app: the check of API keys, the bound on requests in progress, and metrics.

Each wraps an ASGI app and passes its answer on, or answers with an error itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.auth import ApiKeys
from deployments.api.http import error_response
from deployments.api.routes import PATHS, PATHS_OPEN_WHILE_STOPPING, PROBE_PATHS
from deployments.core.errors import EmbedfleetError, ModelUnavailable, Overloaded, Unauthorized
from deployments.core.routing.overload import ConcurrencyLimiter

Observe = Callable[[str, int, float], None]
_CLIENT_GONE = 499  # nginx's status for a client that left before its answer
_STOPPING = ModelUnavailable("the service is stopping", retry_after_s=5.0)


class ApiKeyMiddleware:
    """Passes a request on if its path needs no key or its API key is right."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, keyless_paths: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._keyless_paths = keyless_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, or passes the request on."""
        if scope["type"] == "http" and path_of(scope) not in self._keyless_paths:
            try:
                self._keys.check(Headers(scope=scope).get("authorization"))
            except Unauthorized as error:
                await _refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)


class AdmissionMiddleware:
    """Bounds the requests in progress, and admits none once the service stops.

    Probes are always admitted. For one asyncio loop.
    """

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        """With ``max_requests`` in progress, further ones are answered 429."""
        self._app = app
        self._limiter = ConcurrencyLimiter(max_requests)
        self._in_progress = 0
        self._closed = False
        self._empty = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on; answers 429 if too many are in progress, and 503 once closed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_of(scope)
        self._in_progress += 1
        try:
            if self._closed and path not in PATHS_OPEN_WHILE_STOPPING:
                await _refuse(_STOPPING, scope, receive, send)
            elif path in PROBE_PATHS:
                await self._app(scope, receive, send)
            else:
                await self._within_limit(scope, receive, send)
        finally:
            self._in_progress -= 1
            if self._closed and not self._in_progress:
                self._empty.set()

    async def _within_limit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._limiter.enter(time.monotonic())
        except Overloaded as error:
            await _refuse(error, scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._limiter.leave(time.monotonic())

    async def close(self, within_s: float) -> int:
        """Admits no further request; returns how many are still in progress after ``within_s``."""
        self._closed = True
        if self._in_progress:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within_s)
        return self._in_progress


class MetricsMiddleware:
    """Calls ``observe`` with the route, status and seconds of each answer."""

    def __init__(self, app: ASGIApp, observe: Observe) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the app does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path = path_of(
            scope
        )  # before the app runs, which changes the prefix where it mounts another
        status = _CLIENT_GONE

        async def send_and_watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_watch)
        finally:
            # an unknown path must not become a label: anyone could make up a million
            route = path if path in PATHS else "other"
            self._observe(route, status, time.perf_counter() - started)


def path_of(scope: Scope) -> str:
    """Returns the path below the app's own prefix."""
    # not the request's URL, which is made from the Host header and a query of any bytes
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def _refuse(error: EmbedfleetError, scope: Scope, receive: Receive, send: Send) -> None:
    await error_response(Request(scope, receive), error)(scope, receive, send)
