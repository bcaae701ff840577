"""The OpenAPI 3.1 description, made from the table of routes and the models of their bodies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from deployments.api import responses
from deployments.api.http import REQUIRE_SPACE
from deployments.api.routes import RouteSpec

_ERRORS = {
    400: "A value that cannot be honoured",
    401: "No API key, or a wrong one",
    403: "What the API key does not allow, or a host that this service does not answer for",
    404: "Unknown model",
    408: "The body did not arrive in time",
    409: "Another embedding space",
    413: "The body is too large",
    415: "The body is compressed, or not declared to be JSON",
    429: "Overload; `Retry-After` says when to try again",
    500: "A text without a vector, or an internal error, which is in the service's log",
    503: "The model cannot answer now; the message says why",
    504: "The deadline passed",
}
_DESCRIPTION = (
    "One embedding service for a whole cluster. If it has API keys, calls need one of them: here, enter "
    "it under *Authorize*."
)
_TAGS = {
    "Vectors": "Vectors of texts, and which model makes them",
    "Scores": "Cosines of queries and documents, and the scores of rerankers",
    "Models": "What is served, and whether it answers",
    "Operations": "For probes and monitoring; `/health` and `/ready` need no key",
}
_REQUIRE_SPACE = {
    "name": REQUIRE_SPACE,
    "in": "header",
    "description": "The same as `space` in the body",
    "schema": {"type": "string"},
}
_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "A model's name or Hugging Face id",
    "schema": {"type": "string"},
    "example": "small",
}
_TEMPLATE = "#/components/schemas/{model}"


@cache
def describe(routes: tuple[RouteSpec, ...]) -> dict[str, Any]:
    """Returns the description of the routes as a JSON-ready dictionary."""
    described = [route for route in routes if route.summary is not None]
    return {
        "openapi": "3.1.0",
        "info": {"title": "embedfleet", "version": _version(), "description": _DESCRIPTION},
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": {r.route.path_format: {r.method.lower(): _operation(r)} for r in described},
        "components": {
            "schemas": _schemas(described),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _schemas(routes: Sequence[RouteSpec]) -> dict[str, Any]:
    bodies: list[tuple[type[BaseModel], JsonSchemaMode]] = []
    bodies += [(route.request, "validation") for route in routes if route.request]
    bodies += [(route.response, "serialization") for route in routes if route.response]
    bodies += [(responses.ErrorBody, "serialization")]
    _, schemas = models_json_schema(bodies, ref_template=_TEMPLATE)
    definitions: dict[str, Any] = schemas["$defs"]
    return definitions


def _operation(route: RouteSpec) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "tags": [route.tag],
        "responses": _responses(route),
    }
    if not route.needs_key:
        operation["security"] = []
    if route.request:
        operation["parameters"] = [_REQUIRE_SPACE]
        examples = {name: {"value": body} for name, body in route.examples.items()}
        body = _json_of(route.request, examples=examples)
        operation["requestBody"] = {"required": True, "content": body}
    elif "{name" in route.path:
        operation["parameters"] = [_NAME]
    return operation


def _responses(route: RouteSpec) -> dict[str, Any]:
    error = _json_of(responses.ErrorBody)
    answers = {
        str(s): {"description": d, "content": _answer(route, s)} for s, d in route.answers.items()
    }
    errors = {str(s): {"description": _ERRORS[s], "content": error} for s in route.errors}
    return answers | errors


def _answer(route: RouteSpec, status: int) -> dict[str, Any]:
    example = {"example": route.example} if status == 200 else {}
    if route.response:
        return _json_of(route.response, **example)
    return {"text/plain": {"schema": {"type": "string"}, **example}}


def _json_of(model: type[BaseModel], **fields: Any) -> dict[str, Any]:
    schema = {"$ref": _TEMPLATE.format(model=model.__name__)}
    return {"application/json": {"schema": schema, **fields}}


def _version() -> str:
    try:
        return version("embedfleet")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
