"""Response bodies: their shapes for the OpenAPI description, and their bytes."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel

from deployments.api.backend import ModelCard, SpaceCard
from deployments.embedding.errors import EmbedfleetError
from deployments.embedding.request import Embeddings


class ErrorDetail(BaseModel):
    """OpenAI's error object; ``param`` names the field that was wrong."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """Every error's body."""

    error: ErrorDetail


class Usage(BaseModel):
    """Tokens that were computed, prompts and special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingItem(BaseModel):
    """One vector: a list of numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingResponse(BaseModel):
    """OpenAI's answer, and what is ours beside it."""

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


class RerankResult(BaseModel):
    """A document's place in the request and its cosine with the query."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class RerankResponse(BaseModel):
    """Documents, best first."""

    object: Literal["rerank"]
    results: list[RerankResult]
    model: str
    usage: Usage
    space: str
    instruction: str | None
    truncated: dict[str, list[int]]


class ModelItem(BaseModel):
    """One model: OpenAI's fields, and what there is to know about it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    hugging_face_id: str
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
    device: str | None
    dtype: str | None
    tokens_per_s: int | None
    waiting_tokens: int | None = None
    token_budget: int | None = None
    streams: int | None = None
    gpu_ids: list[str] | None = None
    memory_mib: dict[str, int] | None = None
    shared_space: str | None = None


class SpaceItem(BaseModel):
    """Models whose vectors compare; ``members`` gives the roles that each of them answers."""

    name: str
    id: str | None
    state: Literal["ready", "unavailable"]
    reason: str | None
    worst_cosine: float | None
    members: dict[str, list[str]]


class ModelList(BaseModel):
    """Every configured model, and the spaces that some of them share."""

    object: Literal["list"]
    data: list[ModelItem]
    spaces: list[SpaceItem]


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether a model answers, and each model's state."""

    status: Literal["ready", "not ready"]
    models: dict[str, str]


def dump(body: Any) -> bytes:
    """Returns JSON; float32 arrays are written with just the digits that float32 has."""
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def error_body(error: EmbedfleetError) -> bytes:
    """Returns an error's body, all four keys."""
    detail = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    return dump({"error": detail})


def usage(tokens: int) -> dict[str, int]:
    """Returns OpenAI's usage object."""
    return {"prompt_tokens": tokens, "total_tokens": tokens}


def embeddings_body(found: Embeddings, encoding_format: str) -> bytes:
    """Returns the answer of `/v1/embeddings`."""
    rows = found.vectors.astype("<f4", copy=False)
    vectors: list[Any] = list(rows)
    if encoding_format == "base64":
        vectors = [base64.b64encode(row.tobytes()).decode() for row in rows]
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    return dump({"object": "list", "data": data, **about(found)})


def about(found: Embeddings) -> dict[str, Any]:
    """Returns the fields that say what the vectors are."""
    return {
        "model": found.model,
        "usage": usage(found.tokens),
        "space": found.space,
        "instruction": found.instruction,
        "truncated": list(found.truncated),
    }


def models_body(cards: list[ModelCard], spaces: list[SpaceCard]) -> bytes:
    """Returns the answer of `/v1/models`."""
    data = [model_item(card) for card in cards]
    return dump({"object": "list", "data": data, "spaces": [asdict(space) for space in spaces]})


def model_item(card: ModelCard) -> dict[str, Any]:
    """Returns one model as `/v1/models` shows it."""
    return {
        "id": card.name,
        "object": "model",
        "created": 0,
        "owned_by": card.repo.split("/")[0] if "/" in card.repo else "local",
        "hugging_face_id": card.repo,
        "state": card.state,
        "reason": card.reason,
        "replicas": card.replicas,
        **card.facts,
    }


def as_lists(vectors: np.ndarray[Any, Any]) -> list[Any]:
    """Returns one array a row, which `dump` writes as a list."""
    return list(np.ascontiguousarray(vectors, dtype=np.float32))
