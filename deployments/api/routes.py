"""The one table of routes.

The app's routing, the OpenAPI description, which paths need no API key, which are answered under
overload or while the service stops, and the labels of metrics all follow from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from deployments.api import (
    batch_objects,
    batches,
    embeddings,
    examples,
    files,
    operations,
    page,
    requests,
    reranking,
    responses,
    scoring,
)
from deployments.api.compat import cog, cohere, ollama, tei, tei_sparse, vllm
from deployments.api.compat.dialect import Dialect
from deployments.api.http import ErrorFormat

Handler = Callable[[Request], Awaitable[Response]]
_OK: Mapping[int, str] = {200: "OK"}
_ANY_ERROR = (400, 401, 403, 404, 408, 409, 413, 415, 429, 500, 503, 504)


@dataclass(frozen=True, kw_only=True)
class RouteSpec:
    """How one route is answered, described, guarded and counted.

    ``request`` and ``response`` are the JSON bodies; without ``response`` the answer is plain text.
    ``answers`` describes the statuses with that body, ``errors`` are the statuses with an error's
    body. ``examples`` are request bodies by name, and ``example`` is the answer to the first of them. A
    route without ``summary`` is not part of the OpenAPI description. ``query`` names its parameters, and
    with ``has_form`` its body is a form with a file. With ``dialect``, it is a route of another server,
    and its errors have that server's shape.
    """

    method: Literal["GET", "POST", "DELETE"]
    path: str
    handler: Handler
    summary: str | None = None
    tag: Literal["Vectors", "Scores", "Models", "Batches", "Operations"] | None = None
    request: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    answers: Mapping[int, str] = field(default_factory=lambda: _OK, hash=False)
    errors: tuple[int, ...] = ()
    query: tuple[str, ...] = ()
    has_form: bool = False
    examples: Mapping[str, Any] = field(default_factory=dict, hash=False)
    example: Any = field(default=None, hash=False)
    dialect: Dialect | None = None
    needs_key: bool = True
    is_probe: bool = False  # answered even when too many requests are in progress
    is_download: bool = False  # its answer may take minutes, and has a bound of its own
    open_while_stopping: bool = False

    @property
    def route(self) -> Route:
        """Starlette's route."""
        return Route(self.path, self.handler, methods=[self.method])


_RERANK = RouteSpec(
    method="POST",
    path="/v1/rerank",
    handler=reranking.rerank,
    summary="Documents sorted by their score with a query: a reranker's, or their cosine",
    tag="Scores",
    request=requests.RerankRequest,
    response=responses.RerankResponse,
    errors=_ANY_ERROR,
    examples=examples.RERANK,
    example=examples.RERANK_ANSWER,
)
_OWN_ROUTES = (
    RouteSpec(
        method="POST",
        path="/v1/embeddings",
        handler=embeddings.create_embeddings,
        summary="Vectors of texts, compatible with OpenAI's route",
        tag="Vectors",
        request=requests.EmbeddingRequest,
        response=responses.EmbeddingResponse,
        errors=_ANY_ERROR,
        examples=examples.EMBEDDINGS,
        example=examples.EMBEDDINGS_ANSWER,
    ),
    RouteSpec(
        method="POST",
        path="/v1/route",
        handler=embeddings.explain_route,
        summary="Which model would answer, and why no other",
        tag="Vectors",
        request=requests.EmbeddingRequest,
        response=responses.RouteResponse,
        errors=_ANY_ERROR,
        examples=examples.ROUTE,
        example=examples.ROUTE_ANSWER,
    ),
    RouteSpec(
        method="POST",
        path="/v1/similarity",
        handler=scoring.similarity,
        summary="Cosines of queries and documents",
        tag="Scores",
        request=requests.SimilarityRequest,
        response=responses.SimilarityResponse,
        errors=_ANY_ERROR,
        examples=examples.SIMILARITY,
        example=examples.SIMILARITY_ANSWER,
    ),
    _RERANK,
    replace(_RERANK, path="/v2/rerank", summary="The same as /v1/rerank, for Cohere's clients"),
    RouteSpec(
        method="GET",
        path="/v1/models",
        handler=operations.list_models,
        summary="The configured models and their states",
        tag="Models",
        response=responses.ModelList,
        errors=(401, 500),
        example=examples.MODELS_ANSWER,
    ),
    RouteSpec(
        method="GET",
        path="/v1/models/{name:path}",
        handler=operations.show_model,
        summary="One configured model",
        tag="Models",
        response=responses.ModelItem,
        errors=(401, 403, 404, 500),
        example=examples.MODEL_ANSWER,
    ),
    RouteSpec(
        method="GET",
        path="/v1/usage",
        handler=operations.show_usage,
        summary="What the tenant of the API key has used",
        tag="Operations",
        response=responses.UsageReport,
        errors=(401, 500),
        example=examples.USAGE_ANSWER,
    ),
    RouteSpec(
        method="GET",
        path="/health",
        handler=operations.health,
        summary="200 while the process answers",
        tag="Operations",
        response=responses.Health,
        needs_key=False,
        is_probe=True,
        open_while_stopping=True,  # a service that stops is not ready, but it is alive
        example=examples.HEALTH_ANSWER,
    ),
    RouteSpec(
        method="GET",
        path="/ready",
        handler=operations.ready,
        summary="200 once a model answers, 503 before",
        tag="Operations",
        response=responses.Readiness,
        answers={200: "OK", 503: "No model answers yet"},
        needs_key=False,
        is_probe=True,
        example=examples.READY_ANSWER,
    ),
    RouteSpec(
        method="GET",
        path="/metrics",
        handler=operations.metrics,
        summary="Prometheus metrics of the whole service",
        tag="Operations",
        errors=(401, 500),
        is_probe=True,
        open_while_stopping=True,
        example=examples.METRICS_ANSWER,
    ),
    # the page and what it loads hold nothing of this service but its routes
    RouteSpec(method="GET", path="/openapi.json", handler=operations.openapi, needs_key=False),
    RouteSpec(method="GET", path="/docs", handler=operations.docs, needs_key=False),
    *(
        RouteSpec(method="GET", path=path, handler=operations.docs_asset, needs_key=False)
        for path in operations.ASSETS
    ),
)
# nor does the page, which has its user enter a key
PAGE_ROUTES = (
    RouteSpec(method="GET", path=page.PATH, handler=page.page, needs_key=False),
    *(
        RouteSpec(method="GET", path=path, handler=page.asset, needs_key=False)
        for path in page.ASSETS
    ),
)
_TEI = partial(RouteSpec, dialect=tei.DIALECT)
_COHERE = partial(RouteSpec, dialect=cohere.DIALECT)
_OLLAMA = partial(RouteSpec, dialect=ollama.DIALECT)
_VLLM = partial(RouteSpec, dialect=vllm.DIALECT)
_COG = partial(RouteSpec, dialect=cog.DIALECT)
# not in the OpenAPI description: these routes are described by the servers they come from
DIALECT_ROUTES = (
    _COG(method="GET", path="/", handler=cog.index),  # before TEI's, whose errors this path has
    _TEI(method="POST", path="/embed", handler=tei.embed, request=tei.EmbedBody),
    _TEI(method="POST", path="/", handler=tei.embed, request=tei.EmbedBody),
    _TEI(
        method="POST",
        path="/embed_sparse",
        handler=tei_sparse.embed_sparse,
        request=tei_sparse.EmbedSparseBody,
    ),
    _TEI(method="POST", path="/similarity", handler=tei.similarity, request=tei.SimilarityBody),
    _TEI(method="POST", path="/rerank", handler=tei.rerank, request=tei.RerankBody),
    _TEI(method="GET", path="/info", handler=tei.info),
    *(_TEI(method="POST", path=path, handler=tei.refuse_route) for path in tei.NOT_SERVED),
    _COHERE(method="POST", path="/v1/embed", handler=cohere.embed, request=cohere.EmbedBody),
    _COHERE(method="POST", path="/v2/embed", handler=cohere.embed_v2, request=cohere.EmbedBodyV2),
    _OLLAMA(method="POST", path="/api/embed", handler=ollama.embed, request=ollama.EmbedBody),
    _OLLAMA(
        method="POST",
        path="/api/embeddings",
        handler=ollama.embed_one,
        request=ollama.EmbeddingsBody,
    ),
    _OLLAMA(method="GET", path="/api/tags", handler=ollama.tags),
    _VLLM(method="POST", path="/score", handler=vllm.score, request=vllm.ScoreBody),
    _VLLM(method="POST", path="/v1/score", handler=vllm.score, request=vllm.ScoreBody),
    _COG(method="POST", path="/predictions", handler=cog.predict, request=cog.PredictionBody),
)
_BATCH = partial(
    RouteSpec, tag="Batches", errors=(400, 401, 404, 408, 413, 415, 429, 500, 503, 504, 507)
)
BATCH_ROUTES = (
    _BATCH(
        method="POST",
        path="/v1/files",
        handler=files.create_file,
        summary="Sends the input of a batch",
        response=batch_objects.FileObject,
        has_form=True,
        example=examples.FILE,
    ),
    _BATCH(
        method="GET",
        path="/v1/files",
        handler=files.list_files,
        summary="Your files",
        response=batch_objects.FileList,
        query=("limit", "after", "order", "purpose"),
        example=examples.FILES,
    ),
    _BATCH(
        method="GET",
        path="/v1/files/{id}",
        handler=files.show_file,
        summary="One file",
        response=batch_objects.FileObject,
        example=examples.FILE,
    ),
    _BATCH(
        method="DELETE",
        path="/v1/files/{id}",
        handler=files.delete_file,
        summary="Deletes a file",
        response=batch_objects.DeletedFile,
        example=examples.DELETED_FILE,
    ),
    _BATCH(
        method="GET",
        path="/v1/files/{id}/content",
        handler=files.file_content,
        summary="The content of a file",
        is_download=True,
        example=examples.FILE_CONTENT,
    ),
    _BATCH(
        method="POST",
        path="/v1/batches",
        handler=batches.create_batch,
        summary="Queues a batch",
        request=batches.BatchRequest,
        response=batch_objects.BatchObject,
        examples=examples.BATCHES,
        example=examples.BATCH,
    ),
    _BATCH(
        method="GET",
        path="/v1/batches",
        handler=batches.list_batches,
        summary="Your batches",
        response=batch_objects.BatchList,
        query=("limit", "after", "order"),
        example=examples.BATCH_LIST,
    ),
    _BATCH(
        method="GET",
        path="/v1/batches/{id}",
        handler=batches.show_batch,
        summary="One batch",
        response=batch_objects.BatchObject,
        example=examples.BATCH,
    ),
    _BATCH(
        method="POST",
        path="/v1/batches/{id}/cancel",
        handler=batches.cancel_batch,
        summary="Cancels a batch, which keeps the answers that it has",
        response=batch_objects.BatchObject,
        example=examples.BATCH,
    ),
)
ROUTES = (*_OWN_ROUTES, *PAGE_ROUTES, *DIALECT_ROUTES, *BATCH_ROUTES)
PATHS = frozenset(route.path for route in ROUTES)
KEYLESS_PATHS = frozenset(route.path for route in ROUTES if not route.needs_key)
PROBE_PATHS = frozenset(route.path for route in ROUTES if route.is_probe)
DOWNLOADS = frozenset(r.route.path_format for r in ROUTES if r.is_download)
PATHS_OPEN_WHILE_STOPPING = frozenset(r.path for r in ROUTES if r.open_while_stopping)
_TEMPLATES = {r.route.path_format: r.route.path_regex for r in ROUTES if "{" in r.path}
ERROR_FORMATS: Mapping[str, ErrorFormat] = {
    spec.path: spec.dialect.error_format for spec in ROUTES if spec.dialect
}


def template_of(path: str) -> str | None:
    """Returns the route that a path is of, its parameters by name in braces; None if none is."""
    path = path.rstrip("/") or "/"  # as `SlashMiddleware` has it
    if path in PATHS:
        return path
    return next((template for template, r in _TEMPLATES.items() if r.match(path)), None)
