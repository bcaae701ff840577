"""What wraps the app: the check of API keys, the bounds on requests in progress, and metrics.

Each wraps an ASGI app and passes its answer on, or answers with an error itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.arrivals import Arrivals, ArrivingBody
from deployments.api.auth import ALLOWED_HOSTS, ApiKeys, host_name, set_tenant, tenant_in
from deployments.api.http import error_response
from deployments.api.page import PATH as PAGE
from deployments.api.rate_limits import rate_limit_headers
from deployments.api.routes import (
    DOWNLOADS,
    ERROR_FORMATS,
    PATHS_OPEN_WHILE_STOPPING,
    PROBE_PATHS,
    template_of,
)
from deployments.core.errors import (
    EmbedfleetError,
    Forbidden,
    ModelUnavailable,
    Overloaded,
    RateLimited,
    Unauthorized,
)
from deployments.core.routing.overload import ConcurrencyLimiter
from deployments.core.tenants.limits import TenantLimits

Observe = Callable[[str, int, float], None]
_WITH_BODY = ("POST", "PUT", "PATCH")
_CLIENT_GONE = 499  # nginx's status for a client that left before its answer
_STOPPING = ModelUnavailable("the service is stopping", retry_after_s=5.0)


class ApiKeyMiddleware:
    """Passes a request on if its path needs no key or its API key is right, and notes whose it is."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, keyless_paths: Collection[str]) -> None:
        self._app = app
        self._keys = keys
        self._keyless_paths = keyless_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, or passes the request on."""
        if scope["type"] == "http" and path_of(scope) not in self._keyless_paths:
            try:
                set_tenant(scope, self._keys.caller(Headers(scope=scope).get("authorization")))
            except Unauthorized as error:
                await _refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)


class RateLimitMiddleware:
    """Bounds the requests of each tenant in progress, and says in headers what is left to it."""

    def __init__(self, app: ASGIApp, limits: TenantLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 429, or passes the request on."""
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY:
            await self._app(scope, receive, send)
            return
        tenant = tenant_in(scope)
        if not tenant.is_limited:
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(rate_limit_headers(scope, self._limits))
            await send(message)

        try:
            self._limits.enter(tenant)
        except RateLimited as error:
            await _refuse(error, scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._limits.leave(tenant)


class AdmissionMiddleware:
    """Bounds the requests in progress, and admits none once the service stops.

    Probes are always admitted. A request whose body still arrives is not in progress yet: such bodies
    have a bound of the same size, and must keep coming. Downloads, which last as long as their clients
    read, have a bound of their own (`downloads.py`). For one asyncio loop.
    """

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        """With ``max_requests`` in progress, further ones are answered 429."""
        self._app = app
        self._limiter = ConcurrencyLimiter(max_requests)
        self._arrivals = Arrivals(max_requests)
        self._in_progress = 0
        self._closed = False
        self._empty = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on; answers 429 if too many are in progress, and 503 once closed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = route_of(scope)
        self._in_progress += 1
        try:
            if self._closed and route not in PATHS_OPEN_WHILE_STOPPING:
                await _refuse(_STOPPING, scope, receive, send)
            elif route in PROBE_PATHS or route in DOWNLOADS:
                await self._app(scope, receive, send)
            else:
                await self._within_limit(scope, receive, send)
        finally:
            self._in_progress -= 1
            if self._closed and not self._in_progress:
                self._empty.set()

    async def _within_limit(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = _Place(self._limiter, self._arrivals)
        try:
            if scope.get("method") in _WITH_BODY:
                place.wait_for_body()
                receive = place.receiving(receive)
            else:
                place.enter()
        except Overloaded as error:
            await _refuse(error, scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            place.leave()

    async def close(self, within_s: float) -> int:
        """Admits no further request; returns how many are still in progress after ``within_s``."""
        self._closed = True
        if self._in_progress:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within_s)
        return self._in_progress


class _Place:
    """One request's place: among the bodies that arrive, and then among the requests in progress."""

    def __init__(self, limiter: ConcurrencyLimiter, arrivals: Arrivals) -> None:
        self._limiter = limiter
        self._arrivals = arrivals
        self._body: ArrivingBody | None = None
        self._is_inside = False

    def wait_for_body(self) -> None:
        """Raises Overloaded if the body would be read in vain."""
        self._limiter.check(time.monotonic())
        self._body = self._arrivals.begin()

    def receiving(self, receive: Receive) -> Receive:
        """Returns ``receive`` with a time limit, which raises Overloaded if there is no place."""

        async def receive_in_time() -> Message:
            if self._body is None:
                return await receive()
            message = await self._body.next(receive)
            if not message.get("more_body", False):
                self._arrivals.end(self._body)
                self._body = None
                self.enter()
            return message

        return receive_in_time

    def enter(self) -> None:
        """Raises Overloaded if too many requests are in progress."""
        self._limiter.enter(time.monotonic())
        self._is_inside = True

    def leave(self) -> None:
        """Frees whichever place is taken."""
        if self._body is not None:
            self._arrivals.end(self._body)
        if self._is_inside:
            self._limiter.leave(time.monotonic())


class SlashMiddleware:
    """Answers a path with a slash behind it as without; a redirect would lose some clients' bodies."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] == "http" and scope["path"].endswith("/") and path_of(scope) != "/":
            scope["path"] = scope["path"].rstrip("/")  # a copy would hide the tenant from the log
        await self._app(scope, receive, send)


class PageMiddleware:
    """Shows the page to browsers that open `/`, a path that is also a route of other servers.

    Goes outside of `SlashMiddleware`: the files that the page names are not below `/page/`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] == "http":
            path = path_of(scope)
            if path == f"{PAGE}/":
                # relative, since a proxy in front may have taken a prefix away
                await RedirectResponse(f"..{PAGE}")(scope, receive, send)
                return
            if path == "/" and _wants_page(scope):
                scope = {**scope, "path": scope.get("root_path", "") + PAGE}
        await self._app(scope, receive, send)


class HostMiddleware:
    """Answers 403 unless the request names one of ``hosts``; without any, each may be named.

    A page in a browser can have its own name resolve to the loopback address, and then read answers.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 403, or passes the request on."""
        if scope["type"] == "http" and self._hosts:
            host = host_name(Headers(scope=scope).get("host", ""))
            if host not in self._hosts:
                error = Forbidden(
                    f"this service does not answer for the host {host[:100]!r}; call it at "
                    f"{' or '.join(sorted(self._hosts))}, or list the name in {ALLOWED_HOSTS}",
                    "host",
                )
                await _refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)


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
        # an unknown path must not become a label: anyone could make up a million
        route = route_of(scope) or "other"  # before the app runs, which may change the prefix
        status = _CLIENT_GONE

        async def send_and_watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_watch)
        finally:
            self._observe(route, status, time.perf_counter() - started)


def path_of(scope: Scope) -> str:
    """Returns the path below the app's own prefix."""
    # not the request's URL, which is made from the Host header and a query of any bytes
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def route_of(scope: Scope) -> str | None:
    """Returns the route that a request is for, as the table has it; None for an unknown path."""
    return template_of(path_of(scope))


def _wants_page(scope: Scope) -> bool:
    is_read = scope["method"] in ("GET", "HEAD")
    return is_read and "text/html" in Headers(scope=scope).get("accept", "")


async def handle_error(request: Request, error: Exception) -> Response:
    """Answers an exception of a route; Starlette runs plain functions in a thread pool."""
    return error_response(request, error, ERROR_FORMATS.get(path_of(request.scope)))


async def _refuse(error: EmbedfleetError, scope: Scope, receive: Receive, send: Send) -> None:
    response = await handle_error(Request(scope, receive), error)
    await response(scope, receive, send)
