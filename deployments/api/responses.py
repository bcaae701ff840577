"""Response bodies: their shapes for the OpenAPI description, and their bytes."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel

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


def as_lists(vectors: np.ndarray[Any, Any]) -> list[Any]:
    """Returns one array a row, which `dump` writes as a list."""
    return list(np.ascontiguousarray(vectors, dtype=np.float32))
