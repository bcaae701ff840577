"""What tenants use at the API: calls are counted and charged to them, and headers say what is left.

The headers are OpenAI's, which its clients know.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.types import Scope

from deployments.api.auth import tenant_in
from deployments.api.backend import Backend
from deployments.core.errors import EmbedfleetError, Overloaded, RateLimited
from deployments.core.lane import Lane
from deployments.core.request import Embeddings, EncodeRequest, estimated_tokens
from deployments.core.routing.policy import Decision
from deployments.core.tenants.limits import Quota, TenantLimits
from deployments.core.tenants.tenant import Tenant
from deployments.core.tenants.usage import Counts

_LANE, _MODELS = "embedfleet.lane", "embedfleet.models"
PREFIX = "x-ratelimit-"


async def encode(
    request: Request, decision: Decision, to_encode: EncodeRequest, lane: Lane, deadline: float
) -> Embeddings:
    """As `Backend.encode`, in the name of the request's tenant: what it uses is counted and limited.

    Tokens are estimated before they are computed, and put right after. Raises RateLimited too.
    """
    backend: Backend = request.app.state.backend
    limits: TenantLimits = request.app.state.tenant_limits
    tenant = tenant_in(request.scope)
    request.scope[_LANE] = lane
    to_encode = replace(to_encode, share=tenant.share)
    try:
        with charged(limits, tenant, lane, to_encode, decision) as charge:
            embeddings = await backend.encode(decision, to_encode, lane, deadline)
            charge.tokens = embeddings.tokens
    except (RateLimited, Overloaded):
        limits.usage.add(tenant.name, decision.model, Counts(refusals=1))
        raise
    is_first = _is_first(request.scope, embeddings.model)
    counts = Counts(requests=int(is_first), tokens=embeddings.tokens)
    limits.usage.add(tenant.name, embeddings.model, counts)
    return embeddings


@dataclass
class Charge:
    """The tokens that a call was charged with, to be set to those that were computed."""

    tokens: int = 0


@contextmanager
def charged(
    limits: TenantLimits, tenant: Tenant, lane: Lane, request: EncodeRequest, decision: Decision
) -> Iterator[Charge]:
    """Takes a call's tokens from the tenant's limit. What fails costs nothing, but a call whose caller
    leaves keeps its price: it may have been computed. Raises RateLimited.
    """
    if lane not in tenant.tokens_per_minute:
        yield Charge()
        return
    estimate = estimated_tokens(request, decision.max_tokens)
    limits.charge(tenant, lane, estimate, time.monotonic())
    charge = Charge(estimate)
    try:
        yield charge
    except EmbedfleetError:
        charge.tokens = 0
        raise
    finally:
        limits.correct(tenant, lane, charge.tokens - estimate, time.monotonic())


def _is_first(scope: Scope, model: str) -> bool:
    """Whether the request has not used this model before; some use it twice, or several models."""
    used: set[str] = scope.setdefault(_MODELS, set())
    is_first = model not in used
    used.add(model)
    return is_first


def lane_in(scope: Scope) -> Lane | None:
    """Returns the lane of a request; None before its texts were to be encoded."""
    lane: Lane | None = scope.get(_LANE)
    return lane


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
