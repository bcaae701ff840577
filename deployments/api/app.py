"""The ASGI app, composed from its arguments: a backend, limits, and API keys."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from deployments.api.auth import ApiKeys
from deployments.api.backend import Backend
from deployments.api.files import ApiBatches
from deployments.api.http import ApiLimits
from deployments.api.middleware import (
    ApiKeyMiddleware,
    HostMiddleware,
    PageMiddleware,
    RateLimitMiddleware,
    SlashMiddleware,
    handle_error,
)
from deployments.api.openapi import describe
from deployments.api.responses import dump
from deployments.api.routes import KEYLESS_PATHS, PAGE_ROUTES, ROUTES, Handler, RouteSpec
from deployments.core.errors import EmbedfleetError
from deployments.core.routing.overload import ConcurrencyLimiter
from deployments.core.tenants.limits import TenantLimits


def create_app(  # noqa: PLR0913, PLR0917
    backend: Backend,
    limits: ApiLimits,
    keys: ApiKeys,
    hosts: Collection[str] = (),
    tenant_limits: TenantLimits | None = None,
    batches: ApiBatches | None = None,
    page: bool = True,
) -> ASGIApp:
    """Returns the whole HTTP API over ``backend``.

    Requests must name one of ``hosts``, if given. ``tenant_limits`` keeps what the tenants have used.
    Without ``batches``, the routes of files and batches answer 404, and so do those of the page
    without ``page``.
    """
    app = Starlette(
        routes=_routes(spec for spec in ROUTES if page or spec not in PAGE_ROUTES),
        exception_handlers={
            EmbedfleetError: handle_error,
            HTTPException: handle_error,
            Exception: handle_error,
        },
    )
    app.state.backend = backend
    app.state.limits = limits
    app.state.tenant_limits = tenant_limits = tenant_limits or TenantLimits()
    app.state.keys = keys
    app.state.batches = batches
    app.state.parsing = asyncio.Lock()
    app.state.offline = ConcurrencyLimiter(limits.max_offline, "offline requests")
    app.state.description = dump(describe(ROUTES))
    app.router.redirect_slashes = False
    limited = RateLimitMiddleware(app, tenant_limits)
    guarded: ASGIApp = SlashMiddleware(ApiKeyMiddleware(limited, keys, KEYLESS_PATHS))
    if page:
        guarded = PageMiddleware(guarded)
    return HostMiddleware(guarded, hosts)


def _routes(specs: Iterable[RouteSpec]) -> list[Route]:
    """Returns a route for each path, so that a 405 lists all its methods in ``Allow``."""
    handlers: defaultdict[str, dict[str, Handler]] = defaultdict(dict)
    for spec in specs:
        handlers[spec.path].setdefault(spec.method, spec.handler)
    return [Route(path, _by_method(h), methods=list(h)) for path, h in handlers.items()]


def _by_method(handlers: Mapping[str, Handler]) -> Handler:
    async def handle(request: Request) -> Response:
        method = "GET" if request.method == "HEAD" else request.method
        return await handlers[method](request)

    return handle if len(handlers) > 1 else next(iter(handlers.values()))
