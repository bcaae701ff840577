"""Cohere's embed routes: types, roles, truncation, dimensions and billed units."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from deployments.core.errors import Overloaded
from tests.api.calls import embed, ok, send
from tests.api.fake_backend import NESTED

TEXTS = ["a swan", "b"]
TYPES = ["float", "int8", "uint8", "binary", "ubinary", "base64"]


async def of_our_own(client, **fields):
    data = (await embed(client, input=TEXTS, **fields))["data"]
    return [item["embedding"] for item in data]


async def test_v1_without_types_answers_lists(client):
    answer = ok(await send(client, "/v1/embed", {"texts": TEXTS, "input_type": "search_query"}))
    assert answer["response_type"] == "embeddings_floats"
    assert answer["embeddings"] == await of_our_own(client, input_type="query")
    assert answer["texts"] == TEXTS
    assert answer["id"]


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
async def test_every_type_holds_the_codes_of_our_own_route(client, path):
    body = {"texts": TEXTS, "input_type": "search_document", "embedding_types": TYPES}
    answer = ok(await send(client, path, body))
    assert answer["response_type"] == "embeddings_by_type"
    vectors = answer["embeddings"]
    assert list(vectors) == TYPES
    for kind in TYPES[1:5]:
        assert vectors[kind] == await of_our_own(client, output_dtype=kind)
    assert vectors["float"] == await of_our_own(client)
    decoded = [np.frombuffer(base64.b64decode(row), "<f4") for row in vectors["base64"]]
    assert np.array_equal(np.float32(vectors["float"]), decoded)


async def test_v2_answers_floats_by_default(client):
    answer = ok(await send(client, "/v2/embed", {"texts": TEXTS}))
    assert answer["embeddings"] == {"float": await of_our_own(client)}


async def test_codes_have_a_space_of_their_own(client):
    response = await send(client, "/v2/embed", {"texts": TEXTS, "embedding_types": ["int8"]})
    ours = await embed(client, input=TEXTS, output_dtype="int8")
    assert response.headers["x-embedding-space"] == ours["space"]
    assert ours["space"].endswith("+int8")
    response = await client.post(
        "/v2/embed",
        json={"texts": TEXTS, "embedding_types": ["int8"]},
        headers={"x-require-space": ours["space"].removesuffix("+int8")},
    )
    assert response.status_code == 409


async def test_dimensions(client):
    body = {"texts": TEXTS, "model": "nested", "output_dimension": 2}
    vectors = ok(await send(client, "/v2/embed", body))["embeddings"]["float"]
    assert np.shape(vectors) == (2, 2)
    refused = await send(client, "/v2/embed", {**body, "output_dimension": 3})
    assert refused.status_code == 400
    assert "dimensions" in refused.json()["message"]


async def test_bytes_of_vectors_that_are_not_normalised_are_refused(client):
    body = {"texts": TEXTS, "model": NESTED.name, "embedding_types": ["float", "int8"]}
    refused = await send(client, "/v2/embed", body)
    assert refused.status_code == 400
    assert "`embedding_types`" in refused.json()["message"]


async def test_what_was_cut_is_in_the_meta(client):
    body = {"texts": ["a", "far " * 40], "truncate": "END"}
    answer = ok(await send(client, "/v2/embed", body))
    assert answer["meta"]["warnings"] == ["texts 1 were cut"]
    assert (await send(client, "/v2/embed", {**body, "truncate": "NONE"})).status_code == 400


async def test_billed_units_are_the_tokens(client):
    meta = ok(await send(client, "/v2/embed", {"texts": TEXTS}))["meta"]
    usage = (await embed(client, input=TEXTS))["usage"]
    assert meta["billed_units"] == {"input_tokens": usage["total_tokens"]}
    assert meta["api_version"] == {"version": "2"}
    assert meta["warnings"] == []


async def test_errors_have_a_message_alone(client, backend):
    backend.failing = Overloaded("full", None, 2.0)
    response = await send(client, "/v2/embed", {"texts": TEXTS})
    assert (response.status_code, response.json()) == (429, {"message": "full"})
    assert response.headers["retry-after"] == "2"
