"""What stands before the app: API keys, how many requests may be inside, and what is measured.

Each wraps an ASGI app and answers as it does, or refuses in its place.
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
from deployments.core.errors import EmbedfleetError, ModelUnavailable, Overloaded, Unauthorized
from deployments.core.routing.overload import ConcurrencyLimiter

Observe = Callable[[str, int, float], None]
_CLIENT_GONE = 499  # nginx's name for a client that left before its answer
_STAYS_OPEN = frozenset({"/health", "/metrics"})  # not ready is not dead
_PROBES = _STAYS_OPEN | {"/ready"}
_STOPPING = ModelUnavailable("the service is stopping", retry_after_s=5.0)


class ApiKeyMiddleware:
    """Lets a request through to the app when its API key is right."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, or hands over to the app."""
        if scope["type"] == "http" and self._keys:
            given = Headers(scope=scope).get("authorization")
            try:
                self._keys.check(path_of(scope), given)
            except Unauthorized as error:
                await _refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)


class AdmissionMiddleware:
    """Lets requests in: as many as can be answered in time, and none once the service is told to
    stop. For one asyncio loop.
    """

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        """With ``max_requests`` inside, further ones are answered 429."""
        self._app = app
        self._limiter = ConcurrencyLimiter(max_requests)
        self._inside = 0
        self._closed = False
        self._empty = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands over to the app; answers 429 where too many are inside, 503 once closed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_of(scope)
        self._inside += 1
        try:
            if self._closed and path not in _STAYS_OPEN:
                await _refuse(_STOPPING, scope, receive, send)
            elif path in _PROBES:
                await self._app(scope, receive, send)
            else:
                await self._let_in(scope, receive, send)
        finally:
            self._inside -= 1
            if self._closed and not self._inside:
                self._empty.set()

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
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
        """Lets nothing more in; returns how many are still under way after ``within_s`` seconds."""
        self._closed = True
        if self._inside:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within_s)
        return self._inside


class MetricsMiddleware:
    """Tells ``observe`` the route, status and seconds of each answer."""

    def __init__(self, app: ASGIApp, observe: Observe, routes: Collection[str]) -> None:
        """What is not among ``routes`` is told as "other"."""
        self._app = app
        self._observe = observe
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the app does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        path = path_of(scope)  # now: the app moves the prefix on where it mounts another
        status = _CLIENT_GONE

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # a path that nobody routes must not become a label: anyone could make up a million
            route = path if path in self._routes else "other"
            self._observe(route, status, time.perf_counter() - started)


def path_of(scope: Scope) -> str:
    """Returns the path below the app's own prefix."""
    # not the request's URL: that is made from the Host header and a query of any bytes
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def _refuse(error: EmbedfleetError, scope: Scope, receive: Receive, send: Send) -> None:
    await error_response(Request(scope, receive), error)(scope, receive, send)
