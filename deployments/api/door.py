"""Counts what is under way, and lets nothing more in once the service is told to stop."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.api.http import error_response
from deployments.embedding.errors import ModelUnavailable

_STAYS_OPEN = frozenset({"/health", "/metrics"})  # not ready is not dead
_COME_BACK_S = 5.0


class Door:
    """Stands before the whole app. For one asyncio loop."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._inside = 0
        self._closed = False
        self._empty = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands over to the app; once closed, answers 503."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        self._inside += 1
        try:
            app = _stopping if self._closed and path not in _STAYS_OPEN else self._app
            await app(scope, receive, send)
        finally:
            self._inside -= 1
            if self._closed and not self._inside:
                self._empty.set()

    async def close(self, within_s: float) -> int:
        """Lets nothing more in; returns how many are still under way after ``within_s`` seconds."""
        self._closed = True
        if self._inside:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), within_s)
        return self._inside


async def _stopping(scope: Scope, receive: Receive, send: Send) -> None:
    error = ModelUnavailable("the service is stopping", retry_after_s=_COME_BACK_S)
    await error_response(Request(scope, receive), error)(scope, receive, send)
