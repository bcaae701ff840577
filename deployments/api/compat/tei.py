"""The routes of Hugging Face's text-embeddings-inference 1.9.

They work without ``model``, which its clients do not send: the service's default model answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.auth import tenant_of
from deployments.api.backend import Backend
from deployments.api.bodies import parse_large, read_body
from deployments.api.compat.dialect import (
    Dialect,
    DialectBody,
    check_batch,
    fields_named,
    read,
    respond,
)
from deployments.api.embeddings import encoded
from deployments.api.http import JSON, ApiLimits, error_response
from deployments.api.requests import (
    ROLES,
    EmbeddingRequest,
    Name,
    RerankRequest,
    Text,
)
from deployments.api.reranking import Scored, reranked, scored_documents
from deployments.api.responses import ModelItem, dump, dump_list, rows_of
from deployments.core.awaiting import aside
from deployments.core.batch import Vectors
from deployments.core.errors import (
    EmbedfleetError,
    InvalidRequest,
    KillsReplicas,
    ModelUnavailable,
    Overloaded,
    TextFailed,
    WrongKind,
)
from deployments.core.models.spec import Kind, Role
from deployments.core.routing.facts import RequestFacts
from deployments.core.vectors import INLINE_NUMBERS
from deployments.traces.spans import span

# routes of that server without a counterpart here, and what to use instead
NOT_SERVED: Mapping[str, str] = {
    "/embed_all": "vectors of single tokens are not served; /embed gives one vector for each text",
    "/predict": "classifiers are not served; /rerank scores texts with a query",
    "/tokenize": "token ids are not served; the header x-model of an answer names the tokenizer's model",
    "/decode": "token ids are not served; the header x-model of an answer names the tokenizer's model",
}
_HAS_DOCUMENTS, _HAS_TEXTS = (
    re.compile(rb'[{,\s]"%b"\s*:' % key) for key in (b"documents", b"texts")
)


class EmptyBatch(InvalidRequest):
    """A list without texts."""

    code = "empty_batch"


class NotServed(InvalidRequest):
    """A route of that server that this service does not have."""

    code = "route_not_served"


def _role(value: Any) -> Any:
    if value is None or isinstance(value, Role):
        return value
    if isinstance(value, str) and value in ROLES:
        return ROLES[value]
    raise ValueError(f"must be one of {', '.join(map(repr, ROLES))}")


def _right(value: Any) -> Any:
    if value in (None, "right", "Right"):
        return "right"
    raise ValueError('must be "right": texts are cut at the end that the model\'s files name')


PromptName = Annotated[Role | None, BeforeValidator(_role)]
_Direction = Annotated[Literal["right"], BeforeValidator(_right)]
_Texts = Annotated[list[Text], Field(fail_fast=True)]


class TextsBody(DialectBody):
    """Texts of one role. ``model`` is an addition, for services with several models."""

    texts_field: ClassVar[str] = "inputs"

    inputs: Text | _Texts
    model: Name | None = None
    truncate: bool | None = None
    truncation_direction: _Direction = "right"
    prompt_name: PromptName = None

    @property
    def texts(self) -> list[str]:
        """The texts as a list."""
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs


class EmbedBody(TextsBody):
    """``POST /embed``."""

    normalize: bool = True
    dimensions: int | None = Field(None, ge=1)
    encoding_format: Literal["float"] | None = None  # huggingface_hub's client offers it


class _Sentences(DialectBody):
    source_sentence: Text
    sentences: _Texts


class _SimilarityParameters(DialectBody):
    model_config = ConfigDict(extra="forbid")

    truncate: bool | None = None
    truncation_direction: _Direction = "right"
    prompt_name: PromptName = None


class SimilarityBody(DialectBody):
    """``POST /similarity``. Both sides are encoded in the role that ``prompt_name`` says."""

    texts_field: ClassVar[str] = "inputs"

    inputs: _Sentences
    parameters: _SimilarityParameters = _SimilarityParameters()
    model: Name | None = None


class RerankBody(DialectBody):
    """``POST /rerank``."""

    texts_field: ClassVar[str] = "texts"

    query: Text
    texts: _Texts
    model: Name | None = None
    truncate: bool | None = None
    truncation_direction: _Direction = "right"
    raw_scores: bool = False
    return_text: bool = False


async def embed(request: Request) -> Response:
    """Returns one vector for each text."""
    body, deadline = await read(EmbedBody, request)
    check_texts(request, body.texts, "inputs")
    typed = EmbeddingRequest(
        input=body.texts,
        model=body.model,
        truncate=body.truncate,
        input_type=body.prompt_name,
        normalize=body.normalize,
        dimensions=body.dimensions,
    )
    with fields_named(input="inputs", input_type="prompt_name"):
        embeddings, decision = await encoded(request, typed, deadline)
    vectors = embeddings.vectors
    return respond(await dump_list(rows_of(vectors), vectors.size), [embeddings], decision)


async def similarity(request: Request) -> Response:
    """Returns the cosine of one sentence with each of the others."""
    body, deadline = await read(SimilarityBody, request)
    check_texts(request, body.inputs.sentences, "sentences")
    typed = EmbeddingRequest(
        input=[body.inputs.source_sentence, *body.inputs.sentences],
        model=body.model,
        truncate=body.parameters.truncate,
        input_type=body.parameters.prompt_name,
        normalize=True,
    )
    with fields_named(input="inputs", input_type="prompt_name"):
        embeddings, decision = await encoded(request, typed, deadline)
    is_large = embeddings.vectors.size > INLINE_NUMBERS
    cosines = await aside(is_large, _cosines_with_first, embeddings.vectors)
    return respond(dump(cosines), [embeddings], decision)


async def rerank(request: Request) -> Response:
    """Returns the texts by falling score.

    Infinity, vLLM and Jina's clients send ``documents`` to the same path; they get the answer of
    `/v1/rerank`.
    """
    limits: ApiLimits = request.app.state.limits
    deadline = limits.deadline()
    with span("read"):
        content = await read_body(request, limits, deadline)
    if _HAS_DOCUMENTS.search(content) and not _HAS_TEXTS.search(content):
        return await _rerank_documents(request, content, deadline)
    body = await parse_large(RerankBody, content, request)
    check_texts(request, body.texts, "texts")
    typed = RerankRequest(
        query=body.query,
        documents=list(body.texts),
        model=body.model,
        truncate=body.truncate,
        raw_scores=body.raw_scores,
    )
    with fields_named(documents="texts"):
        _, scored = await scored_documents(request, typed, deadline)
    return respond(_ranks(body, scored), scored.answers, scored.decision)


async def _rerank_documents(request: Request, content: bytes, deadline: float) -> Response:
    try:
        body = await parse_large(RerankRequest, content, request)
        return await reranked(request, body, deadline)
    except EmbedfleetError as error:
        return error_response(request, error)


def _ranks(body: RerankBody, scored: Scored) -> bytes:
    ranks: list[dict[str, Any]] = []
    for place in scored.best(None):
        text = {"text": body.texts[place]} if body.return_text else {}
        ranks.append({"index": place, **text, "score": scored.scores[place]})
    return dump(ranks)


async def info(request: Request) -> Response:
    """Describes the model that answers requests without ``model``."""
    backend: Backend = request.app.state.backend
    limits: ApiLimits = request.app.state.limits
    facts = RequestFacts(kinds=tuple(Kind), models=tenant_of(request).models)
    decision = (await backend.explain(facts, ("text", "text"))).decision
    if decision.reason != "default":
        raise InvalidRequest(
            "the default model is chosen for each request, so there is none to describe; set "
            "`default_model` in the config to a model's name, or ask GET /v1/models",
            "model",
        )
    item = next(item for item in backend.models() if item.id == decision.model)
    return Response(dump(_info(item, limits)), media_type=JSON)


def _info(item: ModelItem, limits: ApiLimits) -> dict[str, Any]:
    return {
        "model_id": item.hugging_face_id,
        "served_model_name": item.id,
        "model_dtype": item.dtype,
        "model_type": {"reranker" if item.kind == Kind.RERANKER else "embedding": {}},
        "max_input_length": item.max_tokens,
        "max_batch_tokens": item.token_budget,
        "max_client_batch_size": limits.max_texts,
        "auto_truncate": limits.truncate,
    }


async def refuse_route(request: Request) -> Response:
    """Raises NotServed."""
    path = request.scope["path"]
    raise NotServed(next(why for name, why in NOT_SERVED.items() if path.endswith(name)))


def check_texts(request: Request, texts: list[str], field: str) -> None:
    """Raises EmptyBatch, or BodyTooLarge if there are too many texts."""
    if not texts:
        raise EmptyBatch(f"`{field}` cannot be empty; send at least one text", field)
    check_batch(request, len(texts), field)


def _cosines_with_first(vectors: Vectors) -> Vectors:
    """Returns the cosine of the first row with each other; all have length 1."""
    cosines: Vectors = vectors[1:] @ vectors[0]
    return cosines


def _error_format(error: EmbedfleetError) -> tuple[int, bytes]:
    """Returns the status and the body that TEI would answer; its types of errors are few."""
    kinds = ((code, kind) for classes, code, kind in _ERRORS if isinstance(error, classes))
    status, kind = next(kinds, (error.status, "Backend" if error.status >= 500 else "Validation"))
    if status == InvalidRequest.status and kind == "Validation":
        status = 422
    return status, dump({"error": error.message, "error_type": kind})


_ERRORS: Sequence[tuple[tuple[type[EmbedfleetError], ...], int, str]] = (
    ((Overloaded,), 429, "Overloaded"),
    ((ModelUnavailable,), 503, "Unhealthy"),
    ((EmptyBatch,), 400, "Empty"),
    ((TextFailed, KillsReplicas, WrongKind, NotServed), 424, "Backend"),
)
DIALECT = Dialect("text-embeddings-inference", _error_format)
