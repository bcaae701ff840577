"""The OpenAPI 3.1 description, made from the same pydantic models that parse the requests."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from deployments.api import requests, responses
from deployments.api import responses as decisions
from deployments.api import responses as listings
from deployments.api.auth import OPEN_PATHS
from deployments.api.http import REQUIRE_SPACE

_POSTS: dict[str, tuple[type[BaseModel], type[BaseModel], str]] = {
    "/v1/embeddings": (
        requests.EmbeddingRequest,
        responses.EmbeddingResponse,
        "Vectors of texts, as OpenAI's embeddings route",
    ),
    "/v1/route": (
        requests.EmbeddingRequest,
        decisions.RouteResponse,
        "Which model would answer, and why no other",
    ),
    "/v1/similarity": (
        requests.SimilarityRequest,
        responses.SimilarityResponse,
        "Cosine of queries and documents",
    ),
    "/v1/rerank": (requests.RerankRequest, responses.RerankResponse, "Documents by their cosine"),
}
_GETS: dict[str, tuple[type[BaseModel] | None, str]] = {
    "/v1/models": (listings.ModelList, "The configured models and their state"),
    "/v1/models/{name}": (listings.ModelItem, "One of them"),
    "/health": (responses.Health, "200 while the process answers"),
    "/ready": (responses.Readiness, "200 once a model answers, 503 before"),
    "/metrics": (None, "Prometheus metrics of the whole service"),
}
_ERRORS = {
    "400": "A value that cannot be honoured",
    "401": "No API key, or a wrong one",
    "404": "Unknown model",
    "408": "The body had not arrived in time",
    "409": "Another embedding space",
    "413": "Body too large",
    "415": "A compressed body",
    "429": "Overload; `Retry-After` says when to come back",
    "500": "A text without a vector, or an internal error, which the service's log has",
    "503": "The model cannot answer now; the message says why",
    "504": "The deadline passed",
}
_REQUIRE_SPACE = {
    "name": REQUIRE_SPACE,
    "in": "header",
    "description": "As `space` in the body",
    "schema": {"type": "string"},
}
_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "A model's name or Hugging Face id",
    "schema": {"type": "string"},
}
_TEMPLATE = "#/components/schemas/{model}"


@cache
def describe() -> dict[str, Any]:
    """Returns the description as a JSON-ready dictionary."""
    answers: list[type[BaseModel]] = [responses.ErrorBody]
    answers += [model for model, _ in _GETS.values() if model is not None]
    answers += [response for _, response, _ in _POSTS.values()]
    asked = [request for request, _, _ in _POSTS.values()]
    bodies: list[tuple[type[BaseModel], JsonSchemaMode]] = [(b, "validation") for b in asked]
    bodies += [(b, "serialization") for b in answers]
    _, schemas = models_json_schema(bodies, ref_template=_TEMPLATE)
    return {
        "openapi": "3.1.0",
        "info": {"title": "embedfleet", "version": _version()},
        "paths": {path: {"post": _post(*entry)} for path, entry in _POSTS.items()}
        | {path: {"get": _get(path, *entry)} for path, entry in _GETS.items()},
        "components": {
            "schemas": schemas["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _post(request: type[BaseModel], response: type[BaseModel], summary: str) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": [_REQUIRE_SPACE],
        "requestBody": {"required": True, "content": _json_of(request)},
        "responses": {"200": {"description": "OK", "content": _json_of(response)}, **_errors()},
    }


def _get(path: str, response: type[BaseModel] | None, summary: str) -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    ok = {"description": "OK", "content": _json_of(response) if response else text}
    others = {} if path in OPEN_PATHS else _errors("401", "500")
    if path == "/ready":
        others = {"503": {**ok, "description": "No model answers yet"}}
    if "{name}" in path:
        found = {"200": ok, **_errors("401", "404", "500")}
        return {"summary": summary, "parameters": [_NAME], "responses": found}
    return {"summary": summary, "responses": {"200": ok, **others}}


def _errors(*statuses: str) -> dict[str, Any]:
    chosen = statuses or tuple(_ERRORS)
    content = _json_of(responses.ErrorBody)
    return {status: {"description": _ERRORS[status], "content": content} for status in chosen}


def _json_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _TEMPLATE.format(model=model.__name__)}}}


def _version() -> str:
    try:
        return version("embedfleet")
    except PackageNotFoundError:  # run from a checkout on a machine that did not install it
        return "0"
