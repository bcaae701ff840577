"""What ``POST /v1/route`` answers: its shape for the OpenAPI description, and its bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from deployments.api.listings import ALWAYS_WHOLE
from deployments.api.responses import dump
from deployments.embedding.models.model import Role
from deployments.embedding.routing.facts import Facts
from deployments.embedding.routing.policy import Decision


class RouteCandidate(BaseModel):
    """A model, what it was expected to take, and why it would not be the one (null if it would)."""

    model: str
    size: str | None
    state: str
    space: str | None
    expected_ms: float
    passed_over: str | None


class RouteResponse(BaseModel):
    """The model that would answer, why, and every model with its reason."""

    model_config = ALWAYS_WHOLE

    object: Literal["route"] = "route"
    model: str
    space: str | None
    reason: str
    role: str
    failover: list[str]
    languages: list[str]
    candidates: list[RouteCandidate]


@dataclass(frozen=True)
class Explanation:
    """A decision that was not carried out; ``facts`` are what the texts told."""

    decision: Decision
    facts: Facts
    candidates: list[RouteCandidate]


def route_body(found: Explanation, role: Role) -> bytes:
    """Returns the answer of `/v1/route`."""
    decision = found.decision
    own = {card.model: card.space for card in found.candidates}
    response = RouteResponse(
        model=decision.model,
        space=decision.space or own[decision.model],
        reason=decision.reason,
        role=role.value,
        failover=list(decision.failover),
        languages=sorted(found.facts.languages),
        candidates=found.candidates,
    )
    return dump(response.model_dump())
