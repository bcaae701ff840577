"""vLLM's ``/score`` and ``/v1/score``: scores of one text with many, or of texts pair by pair."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import Response

from deployments.api.compat.dialect import Dialect, DialectBody, fields_named, read, respond
from deployments.api.http import ApiLimits, own_format
from deployments.api.requests import NOT_EMPTY, Name, RerankRequest, Text
from deployments.api.reranking import Scored, scored_documents
from deployments.api.responses import dump, usage
from deployments.core.awaiting import gather_or_cancel
from deployments.core.errors import InvalidRequest

_PAIRS_AT_ONCE = 32
_Texts = Text | Annotated[list[Text], NOT_EMPTY]


class ScoreBody(DialectBody):
    """``POST /score``. ``truncate`` is an addition."""

    texts_field: ClassVar[str] = "text_2"
    ignored: ClassVar[frozenset[str]] = frozenset({"user", "priority", "encoding_format"})
    refused: ClassVar[Mapping[str, str]] = {
        "truncate_prompt_tokens": "is not supported; `truncate` cuts at the model's own limit",
        "softmax": "is not supported; scores are as the model's files say",
    }

    text_1: _Texts
    text_2: _Texts
    model: Name | None = None
    use_activation: bool | None = None
    truncate: bool | None = None

    def groups(self) -> list[tuple[str, list[str]]]:
        """Returns each text of ``text_1`` with those of ``text_2`` that it is scored with.

        Raises InvalidRequest unless there is one text on the left, or as many as on the right.
        """
        left = [self.text_1] if isinstance(self.text_1, str) else self.text_1
        right = [self.text_2] if isinstance(self.text_2, str) else self.text_2
        if len(left) == 1:
            return [(left[0], right)]
        if len(left) != len(right):
            raise InvalidRequest(
                f"`text_1` holds {len(left)} texts and `text_2` {len(right)}; send one text as "
                "`text_1`, or as many as in `text_2`",
                "text_1",
            )
        return [(query, [document]) for query, document in zip(left, right, strict=True)]

    def typed(self, query: str, documents: Sequence[str], model: str | None) -> RerankRequest:
        """Returns our own request for one text and those that it is scored with."""
        return RerankRequest(
            query=query,
            documents=list(documents),
            model=model,
            truncate=self.truncate,
            raw_scores=self.use_activation is False,
        )


async def score(request: Request) -> Response:
    """Returns the scores of pairs: a reranker's, or their cosines."""
    limits: ApiLimits = request.app.state.limits
    body, deadline = await read(ScoreBody, request)
    groups = body.groups()
    limits.check_count(len(groups), "text_1")
    with fields_named(query="text_1", documents="text_2", raw_scores="use_activation"):
        scored = await _scored(request, body, groups, deadline)
    scores = [float(score) for part in scored for score in part.scores]
    first = scored[0]
    answer = {
        "id": f"score-{uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": first.answers[0].model,
        "data": [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)],
        "usage": usage(sum(part.tokens for part in scored)),
    }
    answers = [embeddings for part in scored for embeddings in part.answers]
    return respond(dump(answer), answers, first.decision)


async def _scored(
    request: Request, body: ScoreBody, groups: Sequence[tuple[str, list[str]]], deadline: float
) -> list[Scored]:
    """Returns the scores of each group, all by the model that is chosen for the first one."""
    places = asyncio.Semaphore(_PAIRS_AT_ONCE)

    async def score(group: tuple[str, list[str]], model: str | None) -> Scored:
        async with places:
            _, scored = await scored_documents(request, body.typed(*group, model), deadline)
            return scored

    first = await score(groups[0], body.model)
    others = (score(group, first.decision.model) for group in groups[1:])
    return [first, *await gather_or_cancel(*others)]


DIALECT = Dialect("vLLM", own_format)
