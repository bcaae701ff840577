"""The ASGI app, composed from its arguments: a backend, what is allowed, who may call."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from swagger_ui_bundle import swagger_ui_path

from deployments.api import operations
from deployments.api.auth import ApiKeys
from deployments.api.backend import Backend
from deployments.api.embeddings import create_embeddings, route
from deployments.api.http import error_response
from deployments.api.scoring import rerank, similarity
from deployments.api.settings import Settings
from deployments.embedding.errors import EmbedfleetError, Unauthorized

Observe = Callable[[str, int, float], None]
_CLIENT_GONE = 499  # nginx's name for a client that left before its answer
_ROUTES = (
    Route("/v1/embeddings", create_embeddings, methods=["POST"]),
    Route("/v1/route", route, methods=["POST"]),
    Route("/v1/similarity", similarity, methods=["POST"]),
    Route("/v1/rerank", rerank, methods=["POST"]),
    Route("/v1/models", operations.list_models, methods=["GET"]),
    Route("/health", operations.health, methods=["GET"]),
    Route("/ready", operations.ready, methods=["GET"]),
    Route("/metrics", operations.metrics, methods=["GET"]),
    Route("/openapi.json", operations.openapi, methods=["GET"]),
    Route("/docs", operations.docs, methods=["GET"]),
)


def create_app(
    backend: Backend,
    settings: Settings | None = None,
    keys: ApiKeys | None = None,
) -> ASGIApp:
    """Returns the service's whole wire over ``backend``."""
    assets = Mount("/docs/assets", StaticFiles(directory=swagger_ui_path))
    app = Starlette(
        routes=[*_ROUTES, assets],
        exception_handlers={
            EmbedfleetError: error_response,
            HTTPException: error_response,
            Exception: error_response,
        },
    )
    app.state.backend = backend
    app.state.settings = settings or Settings()
    return Gate(app, keys or ApiKeys())


class Gate:
    """Lets a request through to the app when its API key is right."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 401, or hands over to the app."""
        if scope["type"] == "http" and self._keys:
            request = Request(scope, receive)
            # not request.url: that is made from the Host header and a query of any bytes
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            try:
                self._keys.check(path, request.headers.get("authorization"))
            except Unauthorized as error:
                await error_response(request, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Observed:
    """Tells ``observe`` the route, status and seconds of each answer."""

    def __init__(self, app: ASGIApp, observe: Observe) -> None:
        self._app = app
        self._observe = observe
        self._known = {route.path for route in _ROUTES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the app does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
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
            route = scope["path"] if scope["path"] in self._known else "other"
            self._observe(route, status, time.perf_counter() - started)
