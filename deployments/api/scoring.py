"""``POST /v1/similarity`` and ``POST /v1/rerank``: cosine of queries and documents, by one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.backend import Backend
from deployments.api.http import REQUIRE_SPACE, answer, read_body
from deployments.api.limits import ApiLimits
from deployments.api.requests import RerankRequest, SimilarityRequest, parse
from deployments.api.responses import about, as_lists, dump, usage, written
from deployments.core.awaiting import aside, gather_or_cancel, in_time
from deployments.core.batch import Vectors
from deployments.core.errors import InvalidRequest, ModelUnavailable
from deployments.core.models.spec import Role
from deployments.core.request import Embeddings, EncodeRequest
from deployments.core.routing.policy import Decision
from deployments.core.routing.refusals import refuse_replaced
from deployments.core.vectors import INLINE_NUMBERS, normalized

_TRIES = 10


@dataclass(frozen=True)
class _Scored:
    """Both sides' vectors and their cosines ``(queries, documents)``."""

    queries: Embeddings
    documents: Embeddings
    scores: Vectors
    decision: Decision


async def similarity(request: Request) -> Response:
    """Returns the cosine of every query with every document, on request the vectors too."""
    deadline = request.app.state.limits.deadline()
    body = parse(SimilarityRequest, await _body(request, deadline))
    scored = await _score(request, body, body.queries, deadline)
    lists = {"scores": scored.scores}
    if body.return_embeddings:
        lists["query_embeddings"] = scored.queries.vectors
        lists["document_embeddings"] = scored.documents.vectors
    numbers = sum(rows.size for rows in lists.values())
    of_rows = {name: as_lists(rows) for name, rows in lists.items()}
    found = await written({"object": "similarity", **_about(scored)}, of_rows, numbers)
    return answer(found, scored.queries, scored.decision)


async def rerank(request: Request) -> Response:
    """Returns the documents by falling cosine with the query; ties keep the request's order."""
    deadline = request.app.state.limits.deadline()
    body = parse(RerankRequest, await _body(request, deadline))
    scored = await _score(request, body, [body.query], deadline)
    scores = scored.scores[0]
    best = np.argsort(-scores, kind="stable")[: body.top_n]
    results: list[dict[str, Any]] = [{"index": int(i), "relevance_score": scores[i]} for i in best]
    if body.return_documents:
        documents = body.texts
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    found = {"object": "rerank", "results": results, **_about(scored)}
    return answer(dump(found), scored.queries, scored.decision)


async def _body(request: Request, deadline: float) -> bytes:
    return await read_body(request, request.app.state.limits, deadline)


async def _score(
    request: Request,
    body: SimilarityRequest | RerankRequest,
    queries: Sequence[str],
    deadline: float,
) -> _Scored:
    documents = body.texts
    backend: Backend = request.app.state.backend
    limits: ApiLimits = request.app.state.limits
    limits.check_count(len(queries), "query")
    limits.check_count(len(documents), "documents")
    facts = replace(
        body.facts(request.headers.get(REQUIRE_SPACE), limits.truncate), roles=frozenset(Role)
    )
    decision = await in_time(backend.choose(facts, [*queries, *documents]), deadline)
    if decision.role is not None:
        raise InvalidRequest(
            f'`model` must not end in "-{decision.role}" here: both roles are encoded', "model"
        )
    one = replace(decision, failover=())  # both sides are answered by the same model

    async def side(texts: Sequence[str], role: Role, instruction: str | None) -> Embeddings:
        asked = EncodeRequest(
            tuple(texts), role, instruction, facts.truncate, normalize=body.normalize
        )
        try:
            return await backend.encode(one, asked, body.priority, deadline)
        except InvalidRequest as error:
            if error.param != "input":
                raise
            field = "query" if role is Role.QUERY else "documents"
            raise type(error)(f"`{field}`: {error.message}", field) from None

    for _ in range(_TRIES):
        asked, told = await gather_or_cancel(
            side(queries, Role.QUERY, body.instruction), side(documents, Role.DOCUMENT, None)
        )
        if asked.space == told.space:
            break
    else:  # old and new replicas of the model answer side by side
        raise ModelUnavailable(f"{one.model} is being replaced", "model", 1.0)
    refuse_replaced(facts, decision.space, asked.space)
    is_large = asked.vectors.size + told.vectors.size > INLINE_NUMBERS
    scores = await aside(is_large, _cosines, asked.vectors, told.vectors)
    return _Scored(asked, told, scores, decision)


def _cosines(queries: Vectors, documents: Vectors) -> Vectors:
    return normalized(queries) @ normalized(documents).T


def _about(scored: _Scored) -> dict[str, Any]:
    return {
        **about(scored.queries),
        "usage": usage(scored.queries.tokens + scored.documents.tokens),
        "truncated": {
            "query": list(scored.queries.truncated),
            "documents": list(scored.documents.truncated),
        },
    }
