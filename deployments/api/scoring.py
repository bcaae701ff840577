"""Cosines of queries and documents: ``POST /v1/similarity``, and what ``POST /v1/rerank`` shares with it.

Both sides are encoded by the same model, each in its own role.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deployments.api.auth import tenant_of
from deployments.api.backend import Backend
from deployments.api.bodies import read_request
from deployments.api.http import ApiLimits, admitted, embedding_response, required_space
from deployments.api.rate_limits import encode
from deployments.api.requests import RerankRequest, SimilarityRequest
from deployments.api.responses import dump_with_lists, provenance, rows_of, usage
from deployments.api.tenants import with_priority
from deployments.core.awaiting import aside, gather_or_cancel, in_time
from deployments.core.batch import Vectors
from deployments.core.errors import InvalidRequest, ModelUnavailable
from deployments.core.models.spec import Role
from deployments.core.request import Embeddings, EncodeRequest
from deployments.core.routing.facts import RequestFacts
from deployments.core.routing.policy import Decision
from deployments.core.routing.refusals import refuse_replaced
from deployments.core.vectors import INLINE_NUMBERS, normalized
from deployments.traces.spans import span

_MAX_TRIES = 10

ScoringRequest = SimilarityRequest | RerankRequest


@dataclass(frozen=True)
class CosineScores:
    """Both sides' vectors and their cosines ``(queries, documents)``."""

    queries: Embeddings
    documents: Embeddings
    scores: Vectors
    decision: Decision


async def similarity(request: Request) -> Response:
    """Returns the cosine of every query with every document, and the vectors if asked for."""
    deadline = request.app.state.limits.deadline()
    body = await read_request(SimilarityRequest, request, request.app.state.limits, deadline)
    scored = await scored_similarity(request, body, deadline)
    arrays = {"scores": scored.scores}
    if body.return_embeddings:
        arrays["query_embeddings"] = scored.queries.vectors
        arrays["document_embeddings"] = scored.documents.vectors
    numbers = sum(array.size for array in arrays.values())
    lists = {name: rows_of(array) for name, array in arrays.items()}
    fields = {"object": "similarity", **provenance_of(scored)}
    content = await dump_with_lists(fields, lists, numbers)
    return embedding_response(content, scored.queries, scored.decision)


async def scored_similarity(
    request: Request, body: SimilarityRequest, deadline: float
) -> CosineScores:
    """Returns both sides' vectors and the cosines of a typed request."""
    backend: Backend = request.app.state.backend
    body = with_priority(request, body)
    facts = scoring_facts(request, body)
    decision = await chosen(backend, body, facts, deadline)
    return await cosines(request, body, facts, decision, deadline)


async def chosen(
    backend: Backend, body: ScoringRequest, facts: RequestFacts, deadline: float
) -> Decision:
    """Returns the one model that scores. Raises InvalidRequest if its name has a role's ending."""
    with span("choose"):
        decision = await in_time(backend.choose(facts, [*body.queries, *body.texts]), deadline)
    if decision.role is not None:
        raise InvalidRequest(
            f'`model` must not end in "-{decision.role}" here: both roles are encoded', "model"
        )
    # a failover could have the two sides answered by different models
    return replace(decision, failover=())


async def cosines(
    request: Request,
    body: ScoringRequest,
    facts: RequestFacts,
    decision: Decision,
    deadline: float,
) -> CosineScores:
    """Returns the cosine of each query and each document, both encoded by one model."""
    with admitted(request, body.priority):
        queries, documents = await _encode_both(request, decision, body, facts, deadline)
    refuse_replaced(facts, decision.space, queries.space)
    is_large = queries.vectors.size + documents.vectors.size > INLINE_NUMBERS
    scores = await aside(is_large, _cosines, queries.vectors, documents.vectors)
    return CosineScores(queries, documents, scores, decision)


def scoring_facts(request: Request, body: ScoringRequest) -> RequestFacts:
    """Returns what the model is chosen by. Raises InvalidRequest if there are too many texts."""
    limits: ApiLimits = request.app.state.limits
    limits.check_count(len(body.queries), "query")
    limits.check_count(len(body.texts), "documents")
    facts = body.facts(required_space(request), limits.truncate)
    return replace(facts, roles=frozenset(Role), models=tenant_of(request).models)


async def _encode_both(
    request: Request,
    decision: Decision,
    body: ScoringRequest,
    facts: RequestFacts,
    deadline: float,
) -> tuple[Embeddings, Embeddings]:
    """Returns the embeddings of queries and documents, both of one space.

    During an update, old and new replicas may answer side by side; then both are encoded again.
    """

    async def encode_side(texts: Sequence[str], role: Role) -> Embeddings:
        instruction = body.instruction if role is Role.QUERY else None
        to_encode = EncodeRequest(
            tuple(texts), role, instruction, facts.truncate, normalize=body.normalize
        )
        try:
            return await encode(request, decision, to_encode, body.priority, deadline)
        except InvalidRequest as error:
            raise of_side(error, role) from None

    for _ in range(_MAX_TRIES):
        queries, documents = await gather_or_cancel(
            encode_side(body.queries, Role.QUERY), encode_side(body.texts, Role.DOCUMENT)
        )
        if queries.space == documents.space:
            return queries, documents
    raise ModelUnavailable(f"{decision.model} is being replaced", "model", 1.0)


def of_side(error: InvalidRequest, role: Role) -> InvalidRequest:
    """Returns the error with this route's name for ``input``."""
    if error.param != "input":
        return error
    field = "query" if role is Role.QUERY else "documents"
    return type(error)(f"`{field}`: {error.message}", field)


def _cosines(queries: Vectors, documents: Vectors) -> Vectors:
    return normalized(queries) @ normalized(documents).T


def provenance_of(scored: CosineScores) -> dict[str, Any]:
    """Returns the fields that say what the scores were made of."""
    return {
        **provenance(scored.queries),
        "usage": usage(scored.queries.tokens + scored.documents.tokens),
        "truncated": {
            "query": list(scored.queries.truncated),
            "documents": list(scored.documents.truncated),
        },
    }
