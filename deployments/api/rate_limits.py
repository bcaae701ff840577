"""The limits of tenants at the API: calls are charged to them, and headers say what is left.

The headers are OpenAI's, which its clients know.
"""

from __future__ import annotations

import time
from dataclasses import replace

from starlette.requests import Request
from starlette.types import Scope

from deployments.api.auth import tenant_in
from deployments.api.backend import Backend
from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane
from deployments.core.request import Embeddings, EncodeRequest, estimated_tokens
from deployments.core.routing.policy import Decision
from deployments.core.tenants.limits import Quota, TenantLimits

_LANE = "embedfleet.lane"
PREFIX = "x-ratelimit-"


async def encode(
    request: Request, decision: Decision, to_encode: EncodeRequest, lane: Lane, deadline: float
) -> Embeddings:
    """As `Backend.encode`, in the name of the request's tenant, from whose limit the tokens are taken.

    They are estimated before, and put right after. Raises RateLimited too.
    """
    backend: Backend = request.app.state.backend
    tenant = tenant_in(request.scope)
    request.scope[_LANE] = lane
    to_encode = replace(to_encode, share=tenant.share)
    if lane not in tenant.tokens_per_minute:
        return await backend.encode(decision, to_encode, lane, deadline)
    limits: TenantLimits = request.app.state.tenant_limits
    estimate = estimated_tokens(to_encode, decision.max_tokens)
    limits.charge(tenant, lane, estimate, time.monotonic())
    try:
        embeddings = await backend.encode(decision, to_encode, lane, deadline)
    except EmbedfleetError:
        limits.correct(tenant, lane, -estimate, time.monotonic())
        raise
    limits.correct(tenant, lane, embeddings.tokens - estimate, time.monotonic())
    return embeddings


def rate_limit_headers(scope: Scope, limits: TenantLimits) -> dict[str, str]:
    """Returns what is left to the tenant of a request: in the request's lane, or in its highest one."""
    tenant = tenant_in(scope)
    lane = scope.get(_LANE, tenant.highest_priority)
    return {
        **_headers("tokens", limits.tokens(tenant, lane, time.monotonic())),
        **_headers("requests", limits.requests(tenant)),
    }


def _headers(unit: str, quota: Quota | None) -> dict[str, str]:
    if quota is None:
        return {}
    return {
        f"{PREFIX}limit-{unit}": str(quota.limit),
        f"{PREFIX}remaining-{unit}": str(quota.remaining),
        f"{PREFIX}reset-{unit}": duration(quota.reset_s),
    }


def duration(seconds: float) -> str:
    """Returns a duration as OpenAI writes it: ``20ms``, ``1.5s`` or ``6m0s``."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest // 1000}s" if minutes else f"{rest / 1000:g}s"
