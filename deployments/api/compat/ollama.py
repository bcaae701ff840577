"""Ollama's routes for vectors: ``/api/embed``, the older ``/api/embeddings``, and ``/api/tags``."""

from __future__ import annotations

import time
from typing import Annotated, ClassVar

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.backend import Backend
from deployments.api.compat.dialect import Dialect, DialectBody, fields_named, read, respond
from deployments.api.embeddings import encoded
from deployments.api.http import JSON
from deployments.api.requests import NOT_EMPTY, EmbeddingRequest, Name, Text
from deployments.api.responses import dump, dump_with_lists, rows_of
from deployments.api.tenants import visible_models
from deployments.core.errors import EmbedfleetError
from deployments.core.models.spec import Kind

_TAG = ":latest"  # which its clients may put behind a name


class _OllamaBody(DialectBody):
    # how a model is run on that server, which is the config's business here
    ignored: ClassVar[frozenset[str]] = frozenset({"options", "keep_alive"})

    model: Name

    @property
    def model_name(self) -> str:
        """The model's name without the tag that every model has."""
        return self.model.removesuffix(_TAG)


class EmbedBody(_OllamaBody):
    """``POST /api/embed``."""

    texts_field: ClassVar[str] = "input"

    input: Text | Annotated[list[Text], NOT_EMPTY]
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1)


class EmbeddingsBody(_OllamaBody):
    """``POST /api/embeddings``."""

    texts_field: ClassVar[str] = "prompt"

    prompt: Text


async def embed(request: Request) -> Response:
    """Returns one vector of length 1 for each text."""
    started = time.perf_counter_ns()
    body, deadline = await read(EmbedBody, request)
    typed = EmbeddingRequest(
        input=body.input,
        model=body.model_name,
        truncate=body.truncate,
        dimensions=body.dimensions,
        normalize=True,
    )
    embeddings, decision = await encoded(request, typed, deadline)
    fields = {
        "model": body.model,
        "total_duration": time.perf_counter_ns() - started,
        "load_duration": 0,
        "prompt_eval_count": embeddings.tokens,
    }
    vectors = embeddings.vectors
    content = await dump_with_lists(fields, {"embeddings": rows_of(vectors)}, vectors.size)
    return respond(content, [embeddings], decision)


async def embed_one(request: Request) -> Response:
    """Returns one text's vector."""
    body, deadline = await read(EmbeddingsBody, request)
    typed = EmbeddingRequest(input=body.prompt, model=body.model_name)
    with fields_named(input="prompt"):
        embeddings, decision = await encoded(request, typed, deadline)
    content = dump({"embedding": rows_of(embeddings.vectors)[0]})
    return respond(content, [embeddings], decision)


async def tags(request: Request) -> Response:
    """Lists the models that give vectors."""
    backend: Backend = request.app.state.backend
    models = [
        {"name": item.id, "model": item.id, "details": {"quantization_level": item.dtype}}
        for item in visible_models(request, backend.models())
        if item.kind in (None, Kind.EMBEDDER)  # None while its files have not been read
    ]
    return Response(dump({"models": models}), media_type=JSON)


def _error_format(error: EmbedfleetError) -> tuple[int, bytes]:
    return error.status, dump({"error": error.message})


DIALECT = Dialect("Ollama", _error_format)
