"""``POST /v1/rerank``: documents by their score with a query.

A reranker reads each document together with the query; without one, the scores are cosines. With
``prefilter`` it reads only the documents with the best cosines: two stages in one request, with one
deadline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.backend import Backend
from deployments.api.bodies import read_request
from deployments.api.http import admitted, embedding_response
from deployments.api.rate_limits import encode
from deployments.api.requests import RerankRequest
from deployments.api.responses import RerankMethod, dump, usage
from deployments.api.scoring import chosen, cosines, of_side, scoring_facts
from deployments.api.tenants import with_priority
from deployments.core.batch import Vectors
from deployments.core.errors import EmbedfleetError, InvalidRequest
from deployments.core.models.spec import Kind, Role
from deployments.core.request import Embeddings, EncodeRequest, Scoring
from deployments.core.routing.facts import RequestFacts
from deployments.core.routing.policy import AUTO, Decision


@dataclass(frozen=True)
class Scored:
    """The scores of some documents, ``(documents,)``, and the answers that they were made of.

    ``rows`` are the documents' places in the request. Those in ``cut_queries`` and ``cut_documents`` were
    too long.
    """

    rows: Sequence[int]
    scores: Vectors
    decision: Decision
    answers: tuple[Embeddings, ...]
    cut_queries: Sequence[int]
    cut_documents: Sequence[int]

    @property
    def by_reranker(self) -> bool:
        """Whether a reranker gave the scores."""
        return self.decision.kind is Kind.RERANKER

    @property
    def tokens(self) -> int:
        """The tokens that were computed."""
        return sum(answer.tokens for answer in self.answers)

    def best(self, count: int | None) -> list[int]:
        """Returns the places in ``rows`` of the best documents; ties keep the request's order."""
        order: list[int] = np.argsort(-self.scores, kind="stable")[:count].tolist()
        return order


async def rerank(request: Request) -> Response:
    """Returns the documents by falling score."""
    deadline = request.app.state.limits.deadline()
    body = await read_request(RerankRequest, request, request.app.state.limits, deadline)
    return await reranked(request, body, deadline)


async def reranked(request: Request, body: RerankRequest, deadline: float) -> Response:
    """Returns the answer to a typed request."""
    first, scored = await scored_documents(request, body, deadline)
    results = [_result(body, scored, place) for place in scored.best(body.top_n)]
    content = dump({"object": "rerank", "results": results, **_provenance(scored, first)})
    return embedding_response(content, scored.answers[0], scored.decision)


async def scored_documents(
    request: Request, body: RerankRequest, deadline: float
) -> tuple[Scored | None, Scored]:
    """Returns the documents' scores; with a ``prefilter``, the cosines of its stage come first."""
    call = _Call(request, with_priority(request, body), deadline)
    return await (_in_two_stages(call) if body.prefilter else _in_one(call))


@dataclass(frozen=True)
class _Call:
    """A request's body, and the time by which it must be answered."""

    request: Request
    body: RerankRequest
    deadline: float

    @property
    def facts(self) -> RequestFacts:
        """What the model that scores is chosen by: a reranker, if one can do it."""
        facts = scoring_facts(self.request, self.body)
        only = (Kind.RERANKER,)
        return replace(facts, kinds=only if self.body.needs_reranker else (*only, Kind.EMBEDDER))

    async def choose(self, facts: RequestFacts) -> Decision:
        backend: Backend = self.request.app.state.backend
        return await chosen(backend, self.body, facts, self.deadline)

    async def by_cosine(self, facts: RequestFacts, decision: Decision) -> Scored:
        """Returns the cosines of all documents."""
        cosine = await cosines(self.request, self.body, facts, decision, self.deadline)
        queries, documents = cosine.queries, cosine.documents
        return Scored(
            range(len(self.body.documents)),
            cosine.scores[0],
            decision,
            (queries, documents),
            queries.truncated,
            documents.truncated,
        )

    async def by_reranker(
        self, facts: RequestFacts, decision: Decision, rows: Sequence[int]
    ) -> Scored:
        """Returns the reranker's scores of the documents in ``rows``."""
        body, texts = self.body, self.body.texts
        pairs = EncodeRequest(
            tuple(texts[row] for row in rows),
            instruction=body.instruction,
            truncate=facts.truncate,
            scoring=Scoring(body.query, body.truncation, body.chunk, body.raw_scores),
        )
        with admitted(self.request, body.priority):
            try:
                answer = await encode(self.request, decision, pairs, body.priority, self.deadline)
            except InvalidRequest as error:
                raise of_side(error, Role.DOCUMENT) from None
        cut = [rows[place] for place in answer.truncated]
        return Scored(rows, answer.vectors[:, 0], decision, (answer,), (), cut)


async def _in_one(call: _Call) -> tuple[None, Scored]:
    """Returns the scores of all documents, by a reranker or by cosine."""
    facts = call.facts
    decision = await call.choose(facts)
    if decision.kind is Kind.EMBEDDER:
        return None, await call.by_cosine(facts, decision)
    return None, await call.by_reranker(facts, decision, range(len(call.body.documents)))


async def _in_two_stages(call: _Call) -> tuple[Scored, Scored]:
    """Returns all documents' cosines, and the reranker's scores of the best of them.

    Both models are chosen before anything is computed.
    """
    facts, prefilter = call.facts, call.body.prefilter
    assert prefilter is not None
    decision = await call.choose(replace(facts, space=None))
    # the first stage only orders, so it cuts what is too long for it
    changes = {"model": prefilter.model or AUTO, "instruction": None, "max_latency_ms": None}
    first = replace(call, body=call.body.model_copy(update=changes))
    first_facts = replace(first.facts, kinds=(Kind.EMBEDDER,), truncate=True)
    with _of_prefilter():
        scored = await first.by_cosine(first_facts, await first.choose(first_facts))
    rows = sorted(scored.best(prefilter.top))
    return scored, await call.by_reranker(facts, decision, rows)


@contextmanager
def _of_prefilter() -> Iterator[None]:
    """Makes an error about a model one about the first stage's model."""
    try:
        yield
    except EmbedfleetError as error:
        if error.param != "model":
            raise
        message = f"`prefilter`: {error.message}"
        raise type(error)(message, "prefilter.model", error.retry_after_s) from None


def _result(body: RerankRequest, scored: Scored, place: int) -> dict[str, Any]:
    row = scored.rows[place]
    result = {"index": row, "relevance_score": scored.scores[place]}
    if body.return_documents:
        result["document"] = {"text": body.texts[row]}
    return result


def _provenance(scored: Scored, first: Scored | None) -> dict[str, Any]:
    main = scored.answers[0]
    stage = first and {
        "model": first.answers[0].model,
        "space": first.answers[0].space,
        "documents": len(first.rows),
        "kept": len(scored.rows),
    }
    return {
        "model": main.model,
        "method": RerankMethod.CROSS_ENCODER if scored.by_reranker else RerankMethod.COSINE,
        "prefilter": stage,
        "usage": usage(scored.tokens + (first.tokens if first else 0)),
        "space": None if scored.by_reranker else main.space,
        "instruction": main.instruction,
        "truncated": {
            "query": list(scored.cut_queries),
            "documents": list(scored.cut_documents),
        },
    }
