"""``POST /embed_sparse`` of text-embeddings-inference: each weight of a sparse encoder as an object."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deployments.api.compat.dialect import fields_named, read, respond
from deployments.api.compat.tei import TextsBody, check_texts
from deployments.api.embeddings import encoded
from deployments.api.requests import EmbeddingRequest
from deployments.api.responses import dump_list
from deployments.core.sparse import SparseVectors


class EmbedSparseBody(TextsBody):
    """``POST /embed_sparse``."""


async def embed_sparse(request: Request) -> Response:
    """Returns a list of indices and values for each text, by a sparse encoder of the fleet."""
    body, deadline = await read(EmbedSparseBody, request)
    check_texts(request, body.texts, "inputs")
    typed = EmbeddingRequest(
        input=body.texts,
        model=body.model,
        truncate=body.truncate,
        input_type=body.prompt_name,
        encoding_format="sparse",
    )
    with fields_named(input="inputs", input_type="prompt_name"):
        embeddings, decision = await encoded(request, typed, deadline)
    vectors = embeddings.sparse
    assert vectors is not None  # the backend refuses a model of another kind
    content = await dump_list(map(_entries, vectors.rows()), vectors.size)
    return respond(content, [embeddings], decision)


def _entries(row: SparseVectors) -> list[dict[str, Any]]:
    pairs = zip(row.indices.tolist(), row.values, strict=True)
    return [{"index": index, "value": value} for index, value in pairs]
