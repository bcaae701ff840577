"""The HTTP API of Cog, with the input and output of the hosted page of e5-mistral-7b-instruct.

Their source: https://github.com/replicate/cog-e5-embeddings. Any instruct model can answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.compat.dialect import Dialect, DialectBody, fields_named, read, respond
from deployments.api.embeddings import encoded
from deployments.api.http import JSON
from deployments.api.requests import EmbeddingRequest, Name, SimilarityRequest, Text
from deployments.api.responses import dump, rows_of
from deployments.api.scoring import scored_similarity
from deployments.core.batch import Vectors
from deployments.core.errors import EmbedfleetError, InvalidRequest
from deployments.core.models.spec import Role
from deployments.core.request import Embeddings
from deployments.core.routing.policy import Decision
from deployments.core.vectors import normalized

_SCORE_SCALE = 100
_LATER = "asks for an answer in the background; leave it out and wait for the answer"


class Input(DialectBody):
    """The texts. ``model`` is an addition, for services with several models."""

    document: Text = Field(description="The document to be embedded.")
    query: Text | None = Field(None, description="A query to compare it with; needs a task.")
    task: Text | None = Field(None, description="What the query is for, in one sentence.")
    normalize: bool = Field(
        False, description="Append the vectors scaled to length 1 to those as they are."
    )
    model: Name | None = Field(None, description="The model; the service's default without it.")


class PredictionBody(DialectBody):
    """``POST /predictions``."""

    texts_field: ClassVar[str] = "input"
    ignored: ClassVar[frozenset[str]] = frozenset({"id", "version", "created_at"})
    refused: ClassVar[Mapping[str, str]] = {
        "webhook": _LATER,
        "webhook_events_filter": _LATER,
        "output_file_prefix": "is for files, and vectors are answered directly",
        "stream": "is not supported; the answer is one piece",
    }

    input: Input


async def predict(request: Request) -> Response:
    """Returns a document's vector, and with a query also the query's vector and their score."""
    started = datetime.now(UTC)
    body, deadline = await read(PredictionBody, request)
    _refuse_later(request)
    texts = body.input
    _check_task(texts)
    with fields_named(input="document", documents="document", instruction="task"):
        vectors, score, answers, decision = await (
            _document(request, texts, deadline)
            if texts.query is None
            else _pair(request, texts, texts.query, deadline)
        )
    rows = [*rows_of(vectors), *(rows_of(normalized(vectors)) if texts.normalize else ())]
    answer = {
        "input": texts.model_dump(exclude_none=True),
        "output": {"embeddings": rows, "score": score},
        "status": "succeeded",
        "error": None,
        "logs": "",
        **_times(started, datetime.now(UTC)),
    }
    return respond(dump(answer), answers, decision)


async def _document(
    request: Request, texts: Input, deadline: float
) -> tuple[Vectors, None, Sequence[Embeddings], Decision]:
    typed = EmbeddingRequest(
        input=texts.document, model=texts.model, input_type=Role.DOCUMENT, normalize=False
    )
    embeddings, decision = await encoded(request, typed, deadline)
    return embeddings.vectors, None, [embeddings], decision


async def _pair(
    request: Request, texts: Input, query: str, deadline: float
) -> tuple[Vectors, float, Sequence[Embeddings], Decision]:
    typed = SimilarityRequest(
        query=query,
        documents=texts.document,
        model=texts.model,
        instruction=texts.task,
        normalize=False,
    )
    scored = await scored_similarity(request, typed, deadline)
    vectors = np.concatenate([scored.queries.vectors, scored.documents.vectors])
    score = float(scored.scores[0, 0]) * _SCORE_SCALE
    return vectors, score, [scored.documents, scored.queries], scored.decision


def _check_task(texts: Input) -> None:
    if texts.query is not None and texts.task is None:
        raise InvalidRequest(
            "`query` needs a `task`: the model was trained on queries with an instruction, and the "
            "hosted page silently leaves out a query without one; send `task`, or drop `query`",
            "task",
        )
    if texts.task is not None and texts.query is None:
        raise InvalidRequest(
            "`task` is the instruction of a query, and documents have none; send `query`, or drop "
            "`task`",
            "query",
        )


def _refuse_later(request: Request) -> None:
    if "respond-async" in request.headers.get("prefer", ""):
        raise InvalidRequest(f"the header `prefer` {_LATER}", "prefer")


def _times(started: datetime, completed: datetime) -> dict[str, Any]:
    return {
        "created_at": started.isoformat(),
        "started_at": started.isoformat(),
        "completed_at": completed.isoformat(),
        "metrics": {"predict_time": (completed - started).total_seconds()},
    }


async def index(request: Request) -> Response:
    """Says where what is, and what the input of a prediction is."""
    del request
    body = {
        "docs_url": "/docs",
        "openapi_url": "/openapi.json",
        "healthcheck_url": "/health",
        "predictions_url": "/predictions",
        "input_schema": Input.model_json_schema(),
    }
    return Response(dump(body), media_type=JSON)


def _error_format(error: EmbedfleetError) -> tuple[int, bytes]:
    """Returns what Cog answers: 422 with the place of a wrong value, or a sentence."""
    if error.status != InvalidRequest.status:
        return error.status, dump({"detail": error.message})
    at = ["body", "input", *([error.param] if error.param else [])]
    return 422, dump({"detail": [{"loc": at, "msg": error.message, "type": "value_error"}]})


DIALECT = Dialect("Cog", _error_format)
