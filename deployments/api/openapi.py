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
    403: "A host that this service does not answer for",
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
}
_TEMPLATE = "#/components/schemas/{model}"


@cache
def describe(routes: tuple[RouteSpec, ...]) -> dict[str, Any]:
    """Returns the description of the routes as a JSON-ready dictionary."""
    described = [route for route in routes if route.summary is not None]
    return {
        "openapi": "3.1.0",
        "info": {"title": "embedfleet", "version": _version()},
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
    operation: dict[str, Any] = {"summary": route.summary, "responses": _responses(route)}
    if route.request:
        operation["parameters"] = [_REQUIRE_SPACE]
        operation["requestBody"] = {"required": True, "content": _json_of(route.request)}
    elif "{name" in route.path:
        operation["parameters"] = [_NAME]
    return operation


def _responses(route: RouteSpec) -> dict[str, Any]:
    text = {"text/plain": {"schema": {"type": "string"}}}
    body = _json_of(route.response) if route.response else text
    error = _json_of(responses.ErrorBody)
    answers = {str(s): {"description": d, "content": body} for s, d in route.answers.items()}
    errors = {str(s): {"description": _ERRORS[s], "content": error} for s in route.errors}
    return answers | errors


def _json_of(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": _TEMPLATE.format(model=model.__name__)}}}


def _version() -> str:
    try:
        return version("embedfleet")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
