"""Lets requests in: as many as can be answered in time, and none once the service is told to stop."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.api.http import error_response
from deployments.embedding.errors import EmbedfleetError, ModelUnavailable, Overloaded
from deployments.embedding.overload import Crowd

_STAYS_OPEN = frozenset({"/health", "/metrics"})  # not ready is not dead
_PROBES = _STAYS_OPEN | {"/ready"}
_STOPPING = ModelUnavailable("the service is stopping", retry_after_s=5.0)


class Door:
    """Stands before the whole app. For one asyncio loop."""

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        """With ``max_requests`` inside, further ones are answered 429."""
        self._app = app
        self._crowd = Crowd(max_requests)
        self._inside = 0
        self._closed = False
        self._empty = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands over to the app; answers 429 where too many are inside, 503 once closed."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
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
            self._crowd.enter(time.monotonic())
        except Overloaded as error:
            await _refuse(error, scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._crowd.leave(time.monotonic())

    async def close(self, within_s: float) -> int:
        """Lets nothing more in; returns how many are still under way after ``within_s`` seconds."""
        self._closed = True
        if self._inside:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within_s)
        return self._inside


async def _refuse(error: EmbedfleetError, scope: Scope, receive: Receive, send: Send) -> None:
    await error_response(Request(scope, receive), error)(scope, receive, send)
