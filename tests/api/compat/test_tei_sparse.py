"""`/embed_sparse` of text-embeddings-inference: its shape and statuses, and our sparse vectors."""

from __future__ import annotations

import pytest

from deployments.core.errors import Overloaded
from deployments.core.models.space import space_id
from tests.api.calls import app_of, connect, embed, ok, send
from tests.api.fake_backend import SPECS, SPLADE, FakeBackend

PATH = "/embed_sparse"


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(specs={**SPECS, SPLADE.name: SPLADE})


def check_error(response, status, error_type, *words):
    assert response.status_code == status, response.text
    body = response.json()
    assert (set(body), body["error_type"]) == ({"error", "error_type"}, error_type)
    for word in words:
        assert word in body["error"]


@pytest.mark.parametrize("name", [None, "query", "document"])
@pytest.mark.parametrize("inputs", ["a", ["a", "b c"]])
async def test_entries_are_those_of_our_own_route(client, inputs, name):
    response = await send(client, PATH, {"inputs": inputs, "prompt_name": name})
    own = await embed(client, input=inputs, encoding_format="sparse", input_type=name)
    vectors = [item["embedding"] for item in own["data"]]
    assert ok(response) == [
        [{"index": i, "value": v} for i, v in zip(e["indices"], e["values"], strict=True)]
        for e in vectors
    ]
    assert all(vector["indices"] for vector in vectors)
    assert response.headers["x-model"] == "splade"
    assert response.headers["x-embedding-space"] == space_id(SPLADE)


async def test_long_texts_are_cut_only_if_that_is_asked_for(client):
    body = {"inputs": ["a", "far " * 40]}
    check_error(await send(client, PATH, body), 422, "Validation")
    response = await send(client, PATH, {**body, "truncate": True})
    assert (len(ok(response)), response.headers["x-truncated-texts"]) == (2, "1")


async def test_a_dense_model_gives_none(client):
    response = await send(client, PATH, {"inputs": "a", "model": "plain"})
    check_error(response, 424, "Backend", "splade")


async def test_a_sparse_model_gives_no_dense_vectors(client):
    response = await send(client, "/embed", {"inputs": "a", "model": "splade"})
    check_error(response, 424, "Backend", "plain")


async def test_without_a_sparse_model_the_reason_is_given():
    async with connect(app_of(FakeBackend())) as http:
        response = await send(http, PATH, {"inputs": "a"})
        check_error(response, 424, "Backend", "sparse")


async def test_an_empty_batch_and_overload_have_its_statuses(client, backend):
    check_error(await send(client, PATH, {"inputs": []}), 400, "Empty")
    backend.failing = Overloaded("full", None, 1.0)
    check_error(await send(client, PATH, {"inputs": "a"}), 429, "Overloaded")
