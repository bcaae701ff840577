"""What the service tells of its models and spaces."""

from __future__ import annotations

from typing import Any

from deployments.agreement import Verdict
from deployments.api.backend import CandidateCard, ModelCard, SpaceCard
from deployments.config import Space
from deployments.embedding.routing.facts import Candidate, Facts
from deployments.embedding.routing.policy import Decision
from deployments.embedding.routing.spaces import space_to_tell
from deployments.status import ModelStatus


def model_card(candidate: Candidate, status: ModelStatus) -> ModelCard:
    """Returns one model as ``GET /v1/models`` shows it."""
    return ModelCard(
        name=candidate.name,
        repo=candidate.spec.repo if candidate.spec else candidate.repo,
        state=status.state,
        reason=status.reason,
        replicas=status.replicas,
        facts=_facts(candidate, status),
    )


def space_card(space: Space, verdict: Verdict) -> SpaceCard:
    """Returns one configured space as ``GET /v1/models`` shows it."""
    return SpaceCard(
        name=space.name,
        id=verdict.id or None,
        state="unavailable" if verdict.problem else "ready",
        reason=verdict.problem,
        worst_cosine=verdict.worst,
        members={m.model: [role.value for role in m.roles] for m in space.members},
    )


def candidate_card(
    candidate: Candidate,
    status: ModelStatus,
    facts: Facts,
    decision: Decision,
    expected_ms: float,
) -> CandidateCard:
    """Returns one model as ``POST /v1/route`` shows it."""
    own = candidate.own_space(facts.dimensions)
    return CandidateCard(
        model=candidate.name,
        size=candidate.size.value if candidate.size else None,
        state=status.state,
        space=space_to_tell(facts, candidate) or own,
        expected_ms=round(expected_ms, 1),
        passed_over=decision.passed_over.get(candidate.name),
    )


def _facts(candidate: Candidate, status: ModelStatus) -> dict[str, Any]:
    spec, shared, replica = candidate.spec, candidate.shared, status.replica
    return {
        "size": candidate.size.value if candidate.size else None,
        "dimension": spec.dimension if spec else None,
        "dimensions": list(spec.dimensions) if spec else None,
        "max_tokens": spec.max_tokens if spec else None,
        "languages": list(spec.languages) if spec else None,
        "space_id": candidate.own_space(),
        "licence": spec.licence if spec else None,
        "default_instruction": spec.prompts.default_instruction if spec else None,
        "device": replica.device,
        "gpu_ids": list(replica.gpu_ids),
        "token_budget": replica.token_budget,
        "streams": replica.streams,
        "memory_mib": dict(zip(("used", "limit"), replica.memory_mib, strict=True))
        if replica.memory_mib
        else None,
        "dtype": replica.dtype,
        "tokens_per_s": replica.tokens_per_s,
        "waiting_tokens": sum(replica.waiting.values()) if status.replicas else None,
        "shared_space": shared.name if shared else None,
    }
