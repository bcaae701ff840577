"""`auto`, required spaces, and `/v1/route`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deployments.core.models.space import space_id
from tests.api.calls import (
    EMBEDDINGS,
    JSON,
    RERANK,
    ROUTE,
    SIMILARITY,
    check_refusal,
    embed,
    ok,
    send,
)
from tests.api.fake_backend import INSTRUCT, NESTED, PLAIN

BODIES = {
    EMBEDDINGS: {"input": "a text"},
    SIMILARITY: {"query": "a text", "documents": ["a text"]},
    RERANK: {"query": "a text", "documents": ["a text"]},
}


async def post(http, path, headers, **fields):
    content = json.dumps({**BODIES[path], **fields}).encode()
    return await http.post(path, content=content, headers={**JSON, **headers})


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({}, "plain"),
        ({"aim": "best"}, "instruct"),
        ({"instruction": "Find it"}, "instruct"),
        ({"dimensions": 4}, "nested"),
        ({"max_latency_ms": 1000}, "instruct"),
        ({"max_latency_ms": 0.5, "aim": "fast"}, "plain"),
    ],
)
async def test_auto(client, fields, model):
    body = await embed(client, model="auto", **fields)
    assert body["model"] == model


async def test_the_answer_has_the_reason(client):
    response = await send(client, EMBEDDINGS, {"model": "auto", "input": "a"})
    assert response.headers["x-route-reason"] == "auto: the smallest"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("spec", [PLAIN, INSTRUCT, NESTED])
async def test_a_required_space_chooses_its_model(client, path, spec):
    by_header = ok(await post(client, path, {"x-require-space": space_id(spec)}))
    by_body = ok(await post(client, path, {}, space=space_id(spec), model="auto"))
    assert by_header["model"] == by_body["model"] == spec.name
    assert by_header["space"] == by_body["space"] == space_id(spec)


async def test_an_empty_header_requires_nothing(client):
    assert ok(await post(client, EMBEDDINGS, {"x-require-space": ""}))["model"] == PLAIN.name


@pytest.mark.parametrize("path", BODIES)
async def test_a_space_that_the_model_is_not_in_is_a_409_that_names_one_that_is(client, path):
    response = await post(client, path, {"x-require-space": space_id(INSTRUCT)}, model="plain")
    advice = ("'plain'", "instruct")
    check_refusal(response, 409, "space", "embedding_space_mismatch", *advice)


@pytest.mark.parametrize("path", BODIES)
async def test_a_space_of_no_model(client, path):
    response = await post(client, path, {}, space="0" * 12)
    check_refusal(response, 409, "space", "embedding_space_mismatch", space_id(PLAIN))


@pytest.mark.parametrize("path", BODIES)
async def test_a_model_replaced_after_the_choice_does_not_answer_in_another_space(
    client, backend, path
):
    encode = backend.encode

    async def replaced(*args):
        return replace(await encode(*args), space="another")

    backend.encode = replaced
    response = await post(client, path, {"x-require-space": space_id(PLAIN)})
    check_refusal(response, 409, "space", "embedding_space_mismatch")
    assert (await post(client, path, {})).status_code == 200


async def test_a_matryoshka_prefix_is_another_space(client):
    whole, prefix = space_id(NESTED), space_id(NESTED, 4)
    assert (await embed(client, space=prefix, dimensions=4))["space"] == prefix
    for fields in ({"space": whole, "dimensions": 4}, {"space": prefix}):
        response = await post(client, EMBEDDINGS, {}, **fields)
        check_refusal(response, 409, "space", "embedding_space_mismatch")


async def test_header_and_body_must_agree(client):
    response = await post(client, EMBEDDINGS, {"x-require-space": "a"}, space="b")
    check_refusal(response, 400, "space", "invalid_value")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"aim": "cheap"}, "aim"),
        ({"max_latency_ms": 0}, "max_latency_ms"),
        ({"space": ""}, "space"),
    ],
)
async def test_wrong_values_are_named(client, fields, param):
    check_refusal(await post(client, EMBEDDINGS, {}, **fields), 400, param, "invalid_value")


async def test_a_request_that_no_model_can_honour(client):
    response = await post(client, EMBEDDINGS, {}, model="auto", dimensions=3)
    advice = ("plain: ", "nested: ", "2 or 4 or 8")
    check_refusal(response, 400, "model", "no_model_fits", *advice)


async def test_route_explains_and_encodes_nothing(client, backend):
    body = ok(
        await send(client, ROUTE, {"model": "auto-query", "input": ["a", "b"], "aim": "best"})
    )
    assert (body["object"], body["model"], body["role"]) == ("route", "instruct", "query")
    assert body["space"] == space_id(INSTRUCT)
    assert {c["model"]: c["passed_over"] is None for c in body["candidates"]} == {
        "plain": False,
        "instruct": True,
        "nested": False,
    }
    assert backend.calls == []


async def test_route_refuses_what_embeddings_refuses(client):
    response = await send(client, ROUTE, {"model": "nobody", "input": "a"})
    check_refusal(response, 404, "model", "model_not_found")


async def test_models_lists_the_spaces(client):
    spaces = {s["name"]: s for s in ok(await client.get("/v1/models"))["spaces"]}
    assert spaces["pair"]["worst_cosine"] == 0.97
    assert spaces["wrong"]["reason"] == "its members disagree"
