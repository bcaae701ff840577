"""Response bodies: their shapes for the OpenAPI description, and their bytes."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Literal

import numpy as np
import orjson
from pydantic import BaseModel

from deployments.embedding.errors import EmbedfleetError
from deployments.embedding.request import Embeddings

# of an answer, to be written at once: it takes about 3 ms, and a hop to a thread 0.1 to 0.2 ms
_INLINE_NUMBERS = 65_536
_ITEMS_AT_ONCE = 16  # as many numbers, if they are vectors of 4,096


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


async def written(
    body: Mapping[str, Any], lists: Mapping[str, Iterable[Any]], numbers: int
) -> bytes:
    """Returns JSON of some fields and, behind them, lists of so many numbers together.

    Many are written in a thread and a few items at a time: orjson holds the interpreter, and so the
    event loop, for as long as it writes. No list is empty.
    """
    if numbers > _INLINE_NUMBERS:
        return await asyncio.to_thread(_dump_in_parts, body, lists)
    return dump({**body, **{name: list(items) for name, items in lists.items()}})


def _dump_in_parts(body: Mapping[str, Any], lists: Mapping[str, Iterable[Any]]) -> bytes:
    parts = [dump(body)[:-1]]
    for name, items in lists.items():
        parts += (b",", dump(name), b":[")
        rest = iter(items)
        while some := list(islice(rest, _ITEMS_AT_ONCE)):
            parts += (dump(some)[1:-1], b",")
        parts[-1] = b"]"
    return b"".join((*parts, b"}"))


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


async def embeddings_body(found: Embeddings, encoding_format: str) -> bytes:
    """Returns the answer of `/v1/embeddings`."""
    rows = found.vectors.astype("<f4", copy=False)
    vectors: Iterable[Any] = rows
    if encoding_format == "base64":
        vectors = (base64.b64encode(row.tobytes()).decode() for row in rows)
    data = ({"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors))
    return await written({"object": "list", **about(found)}, {"data": data}, rows.size)


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
