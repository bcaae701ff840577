"""The ASGI app, composed from its arguments: a backend, what is allowed, who may call."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from swagger_ui_bundle import swagger_ui_path

from deployments.api import operations
from deployments.api.auth import ApiKeys
from deployments.api.backend import Backend
from deployments.api.embeddings import create_embeddings, route
from deployments.api.http import error_response
from deployments.api.limits import ApiLimits
from deployments.api.middleware import ApiKeyMiddleware
from deployments.api.scoring import rerank, similarity
from deployments.core.errors import EmbedfleetError
from deployments.core.routing.overload import ConcurrencyLimiter

_ROUTES = (
    Route("/v1/embeddings", create_embeddings, methods=["POST"]),
    Route("/v1/route", route, methods=["POST"]),
    Route("/v1/similarity", similarity, methods=["POST"]),
    Route("/v1/rerank", rerank, methods=["POST"]),
    Route("/v1/models", operations.list_models, methods=["GET"]),
    Route("/v1/models/{name:path}", operations.show_model, methods=["GET"]),
    Route("/health", operations.health, methods=["GET"]),
    Route("/ready", operations.ready, methods=["GET"]),
    Route("/metrics", operations.metrics, methods=["GET"]),
    Route("/openapi.json", operations.openapi, methods=["GET"]),
    Route("/docs", operations.docs, methods=["GET"]),
)
PATHS = frozenset(route.path for route in _ROUTES)


def create_app(backend: Backend, limits: ApiLimits, keys: ApiKeys) -> ASGIApp:
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
    app.state.limits = limits
    app.state.offline = ConcurrencyLimiter(limits.max_offline, "offline requests")
    return ApiKeyMiddleware(app, keys)
