"""Cohere's ``/v1/embed`` and ``/v2/embed``; its ``/v2/rerank`` is our own `/v1/rerank`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal
from uuid import uuid4

import numpy as np
import orjson
from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.compat.dialect import Dialect, DialectBody, fields_named, read, respond
from deployments.api.embeddings import encoded
from deployments.api.requests import NOT_EMPTY, ROLES, EmbeddingRequest, Name, Text
from deployments.api.responses import dump, dump_list, rows_of
from deployments.core.awaiting import aside
from deployments.core.batch import Vectors
from deployments.core.errors import EmbedfleetError
from deployments.core.models.spec import Role
from deployments.core.quantization import OutputDtype, quantized
from deployments.core.request import Embeddings
from deployments.core.vectors import INLINE_NUMBERS

_Type = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]
_CODES: Mapping[_Type, OutputDtype] = {
    "int8": OutputDtype.INT8,
    "uint8": OutputDtype.UINT8,
    "binary": OutputDtype.BINARY,
    "ubinary": OutputDtype.UBINARY,
}


def _role(value: Any) -> Any:
    if value is None or isinstance(value, Role):
        return value
    if value in ("search_query", "search_document"):
        return ROLES[value]
    raise ValueError(
        "must be 'search_query' or 'search_document': models have no prompts for others"
    )


def _end(value: Any) -> Any:
    if value in (None, "NONE", "END"):
        return value
    raise ValueError(
        "must be 'NONE' or 'END': texts are cut at the end that the model's files name"
    )


class EmbedBody(DialectBody):
    """``POST /v1/embed``."""

    texts_field: ClassVar[str] = "texts"
    ignored: ClassVar[frozenset[str]] = frozenset({"priority"})
    refused: ClassVar[Mapping[str, str]] = {
        "images": "is for images; only texts are served, in `texts`",
        "inputs": "mixes texts and images; only texts are served, in `texts`",
        "max_tokens": "is not supported; `truncate` cuts at the model's own limit",
    }

    texts: Annotated[list[Text], NOT_EMPTY]
    model: Name | None = None
    input_type: Annotated[Role | None, BeforeValidator(_role)] = None
    embedding_types: Annotated[list[_Type], NOT_EMPTY] | None = None
    truncate: Annotated[Literal["NONE", "END"] | None, BeforeValidator(_end)] = None

    @property
    def dimensions(self) -> int | None:
        """The dimensions asked for."""
        return None

    @property
    def output_dtype(self) -> OutputDtype:
        """The one kind of codes asked for, whose space the answer then has; else floats."""
        types = self.embedding_types or []
        return _CODES.get(types[0], OutputDtype.FLOAT32) if len(types) == 1 else OutputDtype.FLOAT32


class EmbedBodyV2(EmbedBody):
    """``POST /v2/embed``."""

    output_dimension: int | None = Field(None, ge=1)

    @property
    def dimensions(self) -> int | None:
        """The dimensions asked for."""
        return self.output_dimension


async def embed(request: Request) -> Response:
    """Returns vectors as lists of floats, or by their types if these are named."""
    body, deadline = await read(EmbedBody, request)
    return await _embed(request, body, deadline, version=1)


async def embed_v2(request: Request) -> Response:
    """Returns vectors by their types."""
    body, deadline = await read(EmbedBodyV2, request)
    return await _embed(request, body, deadline, version=2)


async def _embed(request: Request, body: EmbedBody, deadline: float, version: int) -> Response:
    typed = EmbeddingRequest(
        input=body.texts,
        model=body.model,
        input_type=body.input_type,
        truncate=None if body.truncate is None else body.truncate == "END",
        dimensions=body.dimensions,
        output_dtype=body.output_dtype,
    )
    named = {"input": "texts", "dimensions": "output_dimension", "output_dtype": "embedding_types"}
    with fields_named(**named):
        embeddings, decision = await encoded(request, typed, deadline)
        if version == 1 and body.embedding_types is None:
            kind, vectors = "embeddings_floats", await _of_type("float", embeddings.vectors)
        else:
            kind = "embeddings_by_type"
            vectors = await _by_type(body.embedding_types or ["float"], embeddings.vectors)
    answer = {
        "response_type": kind,
        "id": str(uuid4()),
        "embeddings": orjson.Fragment(vectors),
        "texts": body.texts,
        "meta": _meta(embeddings, version),
    }
    return respond(dump(answer), [embeddings], decision)


async def _by_type(types: Iterable[_Type], vectors: Vectors) -> bytes:
    written = {kind: orjson.Fragment(await _of_type(kind, vectors)) for kind in types}
    return dump(written)


async def _of_type(kind: _Type, vectors: Vectors) -> bytes:
    """Returns a list with one item for each vector. Raises InvalidRequest as `quantized` does."""
    items: Iterable[Any]
    if kind == "float":
        items = rows_of(vectors)
    elif kind == "base64":
        items = (base64.b64encode(row.tobytes()).decode() for row in vectors.astype("<f4"))
    else:
        is_large = vectors.size > INLINE_NUMBERS
        items = np.ascontiguousarray(await aside(is_large, quantized, vectors, _CODES[kind]))
    return await dump_list(items, vectors.size)


def _meta(embeddings: Embeddings, version: int) -> dict[str, Any]:
    return {
        "api_version": {"version": str(version)},
        "billed_units": {"input_tokens": embeddings.tokens},
        "warnings": _warnings(embeddings.truncated),
    }


def _warnings(truncated: Sequence[int]) -> list[str]:
    return [f"texts {', '.join(map(str, truncated))} were cut"] if truncated else []


def _error_format(error: EmbedfleetError) -> tuple[int, bytes]:
    return error.status, dump({"message": error.message})


DIALECT = Dialect("Cohere", _error_format)
