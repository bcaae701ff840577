"""The OpenAPI description is valid, and real requests and responses match it."""

from __future__ import annotations

import copy

import jsonschema
import pytest
import schemathesis

from deployments.api.openapi import describe as description_of
from deployments.api.routes import DIALECT_ROUTES, PAGE_ROUTES, ROUTES
from deployments.core.errors import EmbedfleetError, StoreFailed
from tests.api.calls import EMBEDDINGS, RERANK, ROUTE, SIMILARITY, ok, send

TEXTS = {"query": ["a", "b"], "documents": ["c", "d e"]}
ANSWERS = [
    (EMBEDDINGS, {"input": "a"}),
    (EMBEDDINGS, {"input": ["a", "x " * 99], "encoding_format": "base64", "truncate": True}),
    (EMBEDDINGS, {"input": "a", "model": "nested", "dimensions": 2}),
    (EMBEDDINGS, {"input": "a", "model": "instruct", "input_type": "query"}),
    (SIMILARITY, TEXTS),
    (SIMILARITY, {**TEXTS, "model": "instruct", "return_embeddings": True}),
    (RERANK, {**TEXTS, "query": "a"}),
    (ROUTE, {"input": "a", "model": "auto"}),
    (RERANK, {**TEXTS, "query": "a", "return_documents": True, "top_n": 1}),
]
REFUSALS = [
    (EMBEDDINGS, {"input": ""}, 400),
    (EMBEDDINGS, {"input": "a", "model": "none"}, 404),
    (SIMILARITY, {"query": "a"}, 400),
    (RERANK, {**TEXTS, "query": "a", "model": "none"}, 404),
]
NOT_DESCRIBED = {
    *("/openapi.json", "/docs"),
    *("/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/favicon-32x32.png"),
    *(spec.path for spec in (*DIALECT_ROUTES, *PAGE_ROUTES)),
}
DESCRIBED = [spec for spec in ROUTES if spec.path not in NOT_DESCRIBED]
KINDS = [k for k in EmbedfleetError.__subclasses__() if k is not StoreFailed]
EXAMPLES = [
    (spec.path, name) for spec in DESCRIBED for name in spec.examples if spec.tag != "Batches"
]


def describe() -> dict:
    return description_of(ROUTES)


def check_against(schema: dict, body: object) -> None:
    """Validates strictly: a field that is not described is an error as well."""
    components = copy.deepcopy(describe()["components"])
    for component in components["schemas"].values():
        if "properties" in component:
            component.setdefault("additionalProperties", False)
    jsonschema.Draft202012Validator({**schema, "components": components}).validate(body)


def response_schema(path: str, method: str, status: int) -> dict:
    responses = describe()["paths"][path][method]["responses"]
    return responses[str(status)]["content"]["application/json"]["schema"]


async def test_it_is_served(client):
    assert ok(await client.get("/openapi.json")) == describe()


def test_it_is_a_valid_openapi_31_document():
    assert describe()["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(describe()).validate()


def test_every_schema_is_valid_and_every_reference_exists():
    schemas = describe()["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for reference in references(describe()):
        assert reference.removeprefix("#/components/schemas/") in schemas


def references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [r for value in node.values() for r in references(value)]
    return [r for value in node for r in references(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("name", ["ModelItem", "ModelList", "RouteResponse"])
def test_fields_of_every_response_are_required(name):
    schema = describe()["components"]["schemas"][name]
    assert schema["required"] == list(schema["properties"])


def test_every_route_is_described():
    paths = {spec.route.path_format for spec in ROUTES}
    assert set(describe()["paths"]) == paths - NOT_DESCRIBED


def test_every_operation_has_one_of_the_described_tags():
    tags = [tag["name"] for tag in describe()["tags"]]
    used = [op["tags"] for methods in describe()["paths"].values() for op in methods.values()]
    assert {tag for [tag] in used} == set(tags)


@pytest.mark.parametrize("spec", DESCRIBED, ids=lambda spec: spec.path)
def test_every_operation_has_examples_that_match_its_schemas(spec):
    operation = describe()["paths"][spec.route.path_format][spec.method.lower()]
    answers = operation["responses"]["200"]["content"]
    for content in answers.values():
        check_against(content["schema"], content["example"])
    takes_body = spec.method == "POST" and not spec.path.endswith("/cancel")
    assert takes_body == ("requestBody" in operation)
    if takes_body and not spec.has_form:
        content = operation["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            check_against(content["schema"], example["value"])
        assert content["examples"]


@pytest.mark.parametrize(("path", "name"), EXAMPLES)
async def test_every_example_is_answered(client, path, name):
    content = describe()["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    ok(await send(client, path, content["examples"][name]["value"]))


@pytest.mark.parametrize(("path", "body"), ANSWERS)
async def test_responses_match_the_description(client, path, body):
    check_against(response_schema(path, "post", 200), ok(await send(client, path, body)))


@pytest.mark.parametrize(("path", "body"), ANSWERS)
def test_requests_match_the_description(path, body):
    content = describe()["paths"][path]["post"]["requestBody"]["content"]
    check_against(content["application/json"]["schema"], body)


@pytest.mark.parametrize(("path", "body", "status"), REFUSALS)
async def test_refusals_match_the_description(client, path, body, status):
    response = await send(client, path, body)
    check_against(response_schema(path, "post", status), response.json())
    assert response.status_code == status


@pytest.mark.parametrize("path", [EMBEDDINGS, SIMILARITY, RERANK])
@pytest.mark.parametrize("kind", [*KINDS, EmbedfleetError])
async def test_every_error_is_described(client, backend, path, kind):
    backend.failing = kind("why", None, 1.0)
    body = {"input": "a", "query": "a", "documents": ["b"]}
    response = await send(client, path, body)
    check_against(response_schema(path, "post", kind.status), response.json())
    assert response.status_code == kind.status


@pytest.mark.parametrize("state", ["ready", "cold", "starting", "unavailable"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/{name}", "/health", "/ready"])
async def test_operations_match_the_description(client, backend, path, state):
    backend.states = dict.fromkeys(backend.states, state)
    response = await client.get(path.format(name="plain"))
    check_against(response_schema(path, "get", response.status_code), response.json())


def test_only_health_and_ready_are_open():
    operations = {
        path: operation
        for path, methods in describe()["paths"].items()
        for operation in methods.values()
    }
    keyless = {path for path, op in operations.items() if "401" not in op["responses"]}
    without_lock = {path for path, op in operations.items() if op.get("security") == []}
    assert keyless == without_lock == {"/health", "/ready"}
