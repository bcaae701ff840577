"""What ``POST /v1/route`` answers: its shape for the OpenAPI description, and its bytes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel

from deployments.api.backend import Explanation
from deployments.api.responses import dump
from deployments.embedding.models.model import Role


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

    object: Literal["route"]
    model: str
    space: str | None
    reason: str
    role: str
    failover: list[str]
    languages: list[str]
    candidates: list[RouteCandidate]


def route_body(found: Explanation, role: Role) -> bytes:
    """Returns the answer of `/v1/route`."""
    decision = found.decision
    own = {card.model: card.space for card in found.candidates}
    return dump(
        {
            "object": "route",
            "model": decision.model,
            "space": decision.space or own[decision.model],
            "reason": decision.reason,
            "role": role.value,
            "failover": list(decision.failover),
            "languages": sorted(found.facts.languages),
            "candidates": [asdict(card) for card in found.candidates],
        }
    )
