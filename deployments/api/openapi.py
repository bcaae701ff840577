"""The OpenAPI 3.1 description, made from the table of routes and the models of their bodies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    404: "No such model, file or batch",
    408: "The body did not arrive in time",
    409: "Another embedding space",
    413: "The body is too large",
    415: "The body is compressed, or not of the type that the route takes",
    429: "Overload; `Retry-After` says when to try again",
    500: "A text without a vector, or an internal error, which is in the service's log",
    503: "The model or the store of batches cannot answer now; the message says why",
    504: "The deadline passed",
    507: "The store of batches is full, or cannot be used",
}
_DESCRIPTION = (
    "One embedding service for a whole cluster. If it has API keys, calls need one of them: here, enter "
    "it under *Authorize*."
)
_TAGS = {
    "Vectors": "Vectors of texts, and which model makes them",
    "Scores": "Cosines of queries and documents, and the scores of rerankers",
    "Models": "What is served, and whether it answers",
    "Batches": "Files of requests that are answered behind live traffic, if the config has `batches`",
    "Operations": "For probes and monitoring; `/health` and `/ready` need no key",
}
_REQUIRE_SPACE = {
    "name": REQUIRE_SPACE,
    "in": "header",
    "description": "The same as `space` in the body",
    "schema": {"type": "string"},
}
_TEXT = {"type": "string"}
_IN_PATH: Mapping[str, dict[str, Any]] = {
    "{name:path}": {
        "name": "name",
        "description": "A model's name or Hugging Face id",
        "example": "small",
    },
    "{id}": {"name": "id", "description": "The id of a file or a batch"},
}
_IN_QUERY: Mapping[str, dict[str, Any]] = {
    "limit": {
        "description": "How many are listed at most",
        "schema": {"type": "integer", "minimum": 1},
    },
    "after": {"description": "The `last_id` of the page before", "schema": _TEXT},
    "order": {"schema": {"enum": ["asc", "desc"], "default": "desc"}},
    "purpose": {"description": "`batch` or `batch_output`", "schema": _TEXT},
}
_FILE_FORM = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "contentMediaType": "application/octet-stream"},
        "purpose": {"const": "batch"},
        "expires_after[anchor]": {"const": "created_at"},
        "expires_after[seconds]": {"type": "integer", "minimum": 3_600, "maximum": 2_592_000},
    },
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
        "paths": _paths(described),
        "components": {
            "schemas": _schemas(described),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _paths(routes: Sequence[RouteSpec]) -> dict[str, dict[str, Any]]:
    paths: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for route in routes:
        paths[route.route.path_format][route.method.lower()] = _operation(route)
    return dict(paths)


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
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if body := _body(route):
        operation["requestBody"] = {"required": True, "content": body}
    return operation


def _parameters(route: RouteSpec) -> list[dict[str, Any]]:
    of_path = [p for part, p in _IN_PATH.items() if part in route.path]
    of_texts = [_REQUIRE_SPACE] if route.request and route.tag in ("Vectors", "Scores") else []
    return [
        *({"in": "path", "required": True, "schema": _TEXT, **p} for p in of_path),
        *({"in": "query", "name": name, **_IN_QUERY[name]} for name in route.query),
        *of_texts,
    ]


def _body(route: RouteSpec) -> dict[str, Any]:
    if route.has_form:
        return {"multipart/form-data": {"schema": _FILE_FORM}}
    if route.request is None:
        return {}
    return _json_of(route.request, examples={n: {"value": b} for n, b in route.examples.items()})


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
    media_type = "application/jsonl" if route.is_download else "text/plain"
    return {media_type: {"schema": _TEXT, **example}}


def _json_of(model: type[BaseModel], **fields: Any) -> dict[str, Any]:
    schema = {"$ref": _TEMPLATE.format(model=model.__name__)}
    return {"application/json": {"schema": schema, **fields}}


def _version() -> str:
    try:
        return version("embedfleet")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
