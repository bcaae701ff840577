"""Models, spaces and decisions as the service shows them to callers and to corpus jobs."""

from __future__ import annotations

from deployments.api.responses import ModelItem, RouteCandidate, SpaceItem
from deployments.config.schema import ModelConfig, Space
from deployments.core.models.catalog import catalog_model
from deployments.core.models.spec import Kind, ModelSpec, Role
from deployments.core.models.weights import is_hub_id
from deployments.core.routing.facts import Candidate, RequestFacts
from deployments.core.routing.policy import Decision
from deployments.core.routing.space_matching import reported_space
from deployments.router.shared_spaces import Verdict
from deployments.wire.status import ModelStatus, ServedModel


def model_item(candidate: Candidate, status: ModelStatus) -> ModelItem:
    """Returns one model as ``GET /v1/models`` shows it."""
    spec, replica = candidate.spec, status.replica
    repo = spec.repo if spec else candidate.repo
    hub_id = repo if is_hub_id(repo) else None
    gives_vectors = candidate.kind is not Kind.RERANKER
    memory = dict(zip(("used", "limit"), replica.memory_mib or (), strict=False))
    return ModelItem(
        id=candidate.name,
        kind=candidate.kind.value if spec else None,
        owned_by=hub_id.split("/")[0] if hub_id else "local",
        hugging_face_id=hub_id,
        state=status.state,
        reason=status.reason,
        replicas=status.replicas,
        size=candidate.size.value if candidate.size else None,
        dimension=spec.output_dimension if spec and gives_vectors else None,
        dimensions=list(spec.dimensions) if spec and gives_vectors else None,
        max_tokens=spec.max_tokens if spec else None,
        languages=list(spec.languages) if spec else None,
        space_id=candidate.own_space(),
        licence=spec.licence if spec else None,
        default_instruction=spec.prompts.default_instruction if spec else None,
        trust_remote_code=spec.trust_remote_code if spec else False,
        notices=list(spec.notices) if spec else [],
        device=replica.device,
        dtype=replica.dtype,
        tokens_per_s=replica.tokens_per_s,
        waiting_tokens=sum(replica.waiting.values()) if status.replicas else None,
        network=replica.network,
        why_general=replica.why_general,
        compared_with=replica.compared_with,
        token_budget=replica.token_budget,
        streams=replica.streams,
        gpu_ids=list(replica.gpu_ids),
        memory_mib=memory or None,
        shared_space=candidate.shared.name if candidate.shared else None,
    )


def space_item(space: Space, verdict: Verdict) -> SpaceItem:
    """Returns one configured space as ``GET /v1/models`` shows it."""
    return SpaceItem(
        name=space.name,
        id=verdict.id or None,
        state="unavailable" if verdict.problem else "ready",
        reason=verdict.problem,
        worst_cosine=verdict.worst_cosine,
        members={m.model: [role.value for role in m.roles] for m in space.members},
    )


def route_candidate(
    candidate: Candidate,
    status: ModelStatus,
    facts: RequestFacts,
    decision: Decision,
    expected_ms: float,
) -> RouteCandidate:
    """Returns one model as ``POST /v1/route`` shows it."""
    space = reported_space(facts, candidate) or candidate.own_space(facts.dimensions)
    return RouteCandidate(
        model=candidate.name,
        size=candidate.size.value if candidate.size else None,
        state=status.state,
        space=space,
        expected_ms=round(expected_ms, 1),
        passed_over=decision.passed_over.get(candidate.name),
    )


def served_model(
    config: ModelConfig, spec: ModelSpec | None, role: Role | None, status: ModelStatus
) -> ServedModel:
    """Returns one model as a corpus job sees it.

    Until its files are read, the catalog's entry is its ``spec``, unless its weights are elsewhere.
    """
    if spec is None and config.path is None:
        spec = catalog_model(config.name)
    return ServedModel(config, spec, role, status)
