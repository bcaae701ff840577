"""Response bodies: their models, for the OpenAPI description, and the functions that write them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel, ConfigDict

from deployments.core.awaiting import aside
from deployments.core.batch import Vectors
from deployments.core.errors import EmbedfleetError
from deployments.core.models.spec import Role
from deployments.core.quantization import OutputDtype, quantized
from deployments.core.request import Embeddings
from deployments.core.routing.facts import RequestFacts
from deployments.core.routing.policy import Decision
from deployments.core.sparse import SparseVectors
from deployments.core.vectors import INLINE_NUMBERS

# numbers of an answer that are written on the event loop: about 3 ms, and a hop to a thread costs
# 0.1 to 0.2 ms
_INLINE_NUMBERS = 65_536
_ITEMS_AT_ONCE = 16  # as many numbers again, if they are vectors of 4,096
# fields with a default are in every answer too
_ALL_REQUIRED = ConfigDict(json_schema_serialization_defaults_required=True)


class ErrorDetail(BaseModel):
    """OpenAI's error object; ``param`` names the field that was wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail


class Usage(BaseModel):
    """Tokens that were computed, including prompts and special tokens."""

    prompt_tokens: int
    total_tokens: int


class SparseEmbedding(BaseModel):
    """A sparse vector: the tokens with a weight above zero, by rising id, and their weights."""

    indices: list[int]
    values: list[float]


class EmbeddingItem(BaseModel):
    """One vector: a list of numbers, base64 of them, little-endian and as ``output_dtype`` says, or a
    sparse one.
    """

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str | SparseEmbedding


class EmbeddingResponse(BaseModel):
    """OpenAI's response with our own fields."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: Usage
    space: str
    instruction: str | None
    truncated: list[int]


class SimilarityResponse(BaseModel):
    """``scores[i][j]`` is the cosine of query ``i`` and document ``j``."""

    object: Literal["similarity"]
    scores: list[list[float]]
    model: str
    usage: Usage
    space: str
    instruction: str | None
    truncated: dict[str, list[int]]
    query_embeddings: list[list[float]] | None = None
    document_embeddings: list[list[float]] | None = None


class RerankMethod(StrEnum):
    """What the scores of documents are."""

    CROSS_ENCODER = "cross-encoder"
    COSINE = "cosine"


class RerankResult(BaseModel):
    """A document's index in the request and its score with the query."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class PrefilterResult(BaseModel):
    """The first of two stages: the model whose cosines chose which documents the reranker read."""

    model: str
    space: str
    documents: int
    kept: int


class RerankResponse(BaseModel):
    """Documents, best first. ``space`` is null for a reranker, which has no vectors."""

    object: Literal["rerank"]
    results: list[RerankResult]
    model: str
    method: RerankMethod
    prefilter: PrefilterResult | None
    usage: Usage
    space: str | None
    instruction: str | None
    truncated: dict[str, list[int]]


class RouteCandidate(BaseModel):
    """A model, the time it was expected to take, and why it was passed over (null if it was not)."""

    model: str
    size: str | None
    state: str
    space: str | None
    expected_ms: float
    passed_over: str | None


class RouteResponse(BaseModel):
    """The model that would answer, why, and every model with its reason."""

    model_config = _ALL_REQUIRED

    object: Literal["route"] = "route"
    model: str
    space: str | None
    reason: str
    role: str
    failover: list[str]
    languages: list[str]
    candidates: list[RouteCandidate]


class ModelItem(BaseModel):
    """One model: OpenAI's fields, and what else is known about it."""

    model_config = _ALL_REQUIRED

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    kind: str | None
    owned_by: str
    hugging_face_id: str | None
    state: str
    reason: str | None
    replicas: int
    size: str | None
    dimension: int | None
    dimensions: list[int] | None
    max_tokens: int | None
    languages: list[str] | None
    space_id: str | None
    licence: str | None
    default_instruction: str | None
    trust_remote_code: bool
    notices: list[str]
    device: str | None
    dtype: str | None
    tokens_per_s: int | None
    waiting_tokens: int | None
    network: str | None
    why_general: str | None
    compared_with: str | None
    token_budget: int | None
    streams: int | None
    gpu_ids: list[str]
    memory_mib: dict[str, int] | None
    shared_space: str | None


class SpaceItem(BaseModel):
    """Models whose vectors can be compared; ``members`` holds the roles that each of them answers."""

    name: str
    id: str | None
    state: Literal["ready", "unavailable"]
    reason: str | None
    worst_cosine: float | None
    members: dict[str, list[str]]


class ModelList(BaseModel):
    """Every configured model, and the spaces that some of them share."""

    model_config = _ALL_REQUIRED

    object: Literal["list"] = "list"
    data: list[ModelItem]
    spaces: list[SpaceItem]


class ModelUsage(BaseModel):
    """What a tenant has used of one model; null stands for refusals before a model was chosen."""

    model: str | None
    requests: int
    tokens: int
    refusals: int


class UsageReport(BaseModel):
    """What the tenant of the API key has used since ``since`` (seconds since 1970).

    With ``complete``, that is at all routers of the service; without, only at ``routers`` of them.
    """

    model_config = _ALL_REQUIRED

    object: Literal["usage"] = "usage"
    tenant: str
    since: int
    routers: int
    complete: bool
    data: list[ModelUsage]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether a model answers, and each model's state. ``reason`` says that the cluster is lost."""

    status: Literal["ready", "not ready"]
    reason: str | None
    models: dict[str, str]


@dataclass(frozen=True)
class Explanation:
    """A decision that was not carried out; ``facts`` include what was learned from the texts."""

    decision: Decision
    facts: RequestFacts
    candidates: list[RouteCandidate]


def dump(body: Any) -> bytes:
    """Returns JSON. Numbers of float32 arrays have only the digits that float32 has."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


async def dump_with_lists(
    body: Mapping[str, Any], lists: Mapping[str, Iterable[Any]], numbers: int
) -> bytes:
    """Returns JSON of ``body`` followed by ``lists``, which together hold this many numbers.

    Many numbers are written in a thread, a few items at a time, since orjson holds the interpreter,
    and so the event loop, while it writes. No list may be empty.
    """
    if numbers > _INLINE_NUMBERS:
        return await asyncio.to_thread(_dump_in_parts, body, lists)
    return dump({**body, **{name: list(items) for name, items in lists.items()}})


async def dump_list(items: Iterable[Any], numbers: int) -> bytes:
    """Returns JSON of a list that holds this many numbers, as `dump_with_lists`."""
    if numbers > _INLINE_NUMBERS:
        return await asyncio.to_thread(_list_in_parts, items)
    return dump(list(items))


def _dump_in_parts(body: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]) -> bytes:
    parts = [dump(body)[:-1]]
    for name, items in lists.items():
        parts += (b",", dump(name), b":", _list_in_parts(items))
    return b"".join((*parts, b"}"))


def _list_in_parts(items: Iterable[Any]) -> bytes:
    rest = iter(items)
    parts = iter(lambda: list(islice(rest, _ITEMS_AT_ONCE)), [])
    return b"[" + b",".join(dump(part)[1:-1] for part in parts) + b"]"


def error_body(error: EmbedfleetError) -> bytes:
    """Returns an error's body, with all four keys."""
    detail = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    return dump({"error": detail})


async def embeddings_body(
    embeddings: Embeddings, encoding_format: str, dtype: OutputDtype = OutputDtype.FLOAT32
) -> bytes:
    """Returns the body of `/v1/embeddings`. Raises InvalidRequest as `quantized` does."""
    if embeddings.sparse is not None:
        return await _sparse_body(embeddings, embeddings.sparse)
    rows = await aside(
        embeddings.vectors.size > INLINE_NUMBERS, quantized, embeddings.vectors, dtype
    )
    # orjson knows no float16
    vectors: Iterable[Any] = rows.astype("<f4") if dtype is OutputDtype.FLOAT16 else rows
    if encoding_format == "base64":
        vectors = (base64.b64encode(row.tobytes()).decode() for row in rows)
    data = ({"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors))
    body = {"object": "list", **provenance(embeddings)}
    return await dump_with_lists(body, {"data": data}, rows.size)


async def _sparse_body(embeddings: Embeddings, vectors: SparseVectors) -> bytes:
    written = ({"indices": row.indices, "values": row.values} for row in vectors.rows())
    data = ({"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(written))
    body = {"object": "list", **provenance(embeddings)}
    return await dump_with_lists(body, {"data": data}, vectors.size)


def provenance(embeddings: Embeddings) -> dict[str, Any]:
    """Returns the fields that say what the vectors are."""
    return {
        "model": embeddings.model,
        "usage": usage(embeddings.tokens),
        "space": embeddings.space,
        "instruction": embeddings.instruction,
        "truncated": list(embeddings.truncated),
    }


def usage(tokens: int) -> dict[str, int]:
    """Returns OpenAI's usage object."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def rows_of(vectors: Vectors) -> list[Any]:
    """Returns one float32 array for each row, which `dump` writes as a list."""
    return list(np.ascontiguousarray(vectors, dtype=np.float32))


def route_body(explanation: Explanation, role: Role) -> bytes:
    """Returns the body of `/v1/route`."""
    decision = explanation.decision
    spaces = {candidate.model: candidate.space for candidate in explanation.candidates}
    response = RouteResponse(
        model=decision.model,
        space=decision.space or spaces[decision.model],
        reason=decision.reason,
        role=role.value,
        failover=list(decision.failover),
        languages=sorted(explanation.facts.languages),
        candidates=explanation.candidates,
    )
    return dump(response.model_dump())
