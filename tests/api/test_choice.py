"""`auto`, the space guard and `/v1/route` on the wire."""

from __future__ import annotations

import json

import pytest

from deployments.core.models.space import space_id

from .calls import EMBEDDINGS, JSON, RERANK, ROUTE, SIMILARITY, check_refusal, embed, ok, send
from .fake_backend import INSTRUCT, NESTED, PLAIN

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


async def test_the_reason_is_told(client):
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
async def test_another_space_than_the_models_is_a_409_with_what_would_match(client, path):
    response = await post(client, path, {"x-require-space": space_id(INSTRUCT)}, model="plain")
    advice = ("'plain' does not answer in space", "these do: instruct")
    check_refusal(response, 409, "space", "embedding_space_mismatch", *advice)


@pytest.mark.parametrize("path", BODIES)
async def test_a_space_that_nobody_has(client, path):
    response = await post(client, path, {}, space="0" * 12)
    advice = ("the spaces are", space_id(PLAIN))
    check_refusal(response, 409, "space", "embedding_space_mismatch", *advice)


async def test_a_matryoshka_prefix_is_another_space(client):
    whole, prefix = space_id(NESTED), space_id(NESTED, 4)
    assert (await embed(client, space=prefix, dimensions=4))["space"] == prefix
    for fields in ({"space": whole, "dimensions": 4}, {"space": prefix}):
        response = await post(client, EMBEDDINGS, {}, **fields)
        check_refusal(response, 409, "space", "embedding_space_mismatch")


async def test_header_and_body_must_agree(client):
    response = await post(client, EMBEDDINGS, {"x-require-space": "a"}, space="b")
    check_refusal(response, 400, "space", "invalid_value", "drop one")


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


async def test_what_no_model_can_honour(client):
    response = await post(client, EMBEDDINGS, {}, model="auto", dimensions=3)
    advice = ("plain: its dimensions are 8, not 3", "nested: its dimensions are 2 or 4 or 8")
    check_refusal(response, 400, "model", "no_model_fits", *advice)


async def test_route_explains_and_runs_nothing(client, backend):
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


async def test_route_refuses_what_would_be_refused(client):
    response = await send(client, ROUTE, {"model": "nobody", "input": "a"})
    check_refusal(response, 404, "model", "model_not_found")


async def test_models_lists_the_spaces(client):
    found = {s["name"]: s for s in ok(await client.get("/v1/models"))["spaces"]}
    assert found["pair"]["worst_cosine"] == 0.97
    assert found["wrong"]["reason"] == "its members disagree"
