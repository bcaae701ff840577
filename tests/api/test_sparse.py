"""Sparse vectors on `/v1/embeddings`: how to ask for them, what they look like, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from deployments.core.models.space import space_id
from deployments.core.models.spec import Role
from deployments.core.request import EncodeRequest
from tests.api.calls import (
    EMBEDDINGS,
    RERANK,
    ROUTE,
    SIMILARITY,
    app_of,
    check_refusal,
    connect,
    embed,
    ok,
    send,
)
from tests.api.fake_backend import JUDGE, PLAIN, SPECS, SPLADE, FakeBackend, expected, sparse_of

TEXTS = ["a duck", "a swan", "a goose"]
SPARSE = {"encoding_format": "sparse"}


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(specs={**SPECS, SPLADE.name: SPLADE})


@pytest.fixture
async def client(backend: FakeBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(app_of(backend)) as http:
        yield http


def entries(texts, role=Role.DOCUMENT):
    vectors = sparse_of(expected(SPLADE, EncodeRequest(tuple(texts), role)))
    return [(row.indices.tolist(), row.values.tolist()) for row in vectors.rows()]


@pytest.mark.parametrize("model", ["splade", "acme/splade", "small", "auto", None])
async def test_each_text_has_indices_and_values(client, model):
    body = await embed(client, input=TEXTS, model=model, **SPARSE)
    assert (body["model"], body["space"]) == ("splade", space_id(SPLADE))
    assert [item["index"] for item in body["data"]] == [0, 1, 2]
    for item, (indices, values) in zip(body["data"], entries(TEXTS), strict=True):
        assert set(item["embedding"]) == {"indices", "values"}
        assert item["embedding"]["indices"] == indices
        np.testing.assert_array_equal(np.float32(item["embedding"]["values"]), np.float32(values))
        assert 0 < len(indices) < SPLADE.dimension


async def test_the_role_and_the_space_are_those_of_other_vectors(client):
    response = await send(
        client, EMBEDDINGS, {"input": "a duck", "model": "splade-query", **SPARSE}
    )
    [item] = ok(response)["data"]
    assert item["embedding"]["indices"] == entries(["a duck"], Role.QUERY)[0][0]
    assert response.headers["x-embedding-space"] == space_id(SPLADE)
    body = await embed(client, model="auto", space=space_id(SPLADE), **SPARSE)
    assert body["model"] == "splade"


async def test_a_large_answer_is_written_in_parts(client):
    texts = [f"text {n}" for n in range(2_000)] * 5
    async with connect(app_of(FakeBackend(specs={"splade": SPLADE}), max_texts=10_000)) as http:
        body = await embed(http, input=texts, **SPARSE)
    found = [item["embedding"]["indices"] for item in body["data"]]
    assert found == [indices for indices, _ in entries(texts)]


async def test_a_text_without_weights_has_none(client, backend):
    backend.vectors = lambda spec, request: -np.ones((2, 8), np.float32)
    body = await embed(client, input=["a", "b"], **SPARSE)
    nothing = {"indices": [], "values": []}
    assert [item["embedding"] for item in body["data"]] == [nothing, nothing]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dimensions", 4),
        ("dimensions", 8),
        ("normalize", True),
        ("output_dtype", "int8"),
        ("output_dtype", "float16"),
    ],
)
async def test_what_only_dense_vectors_have_is_refused(client, backend, field, value):
    response = await send(client, EMBEDDINGS, {"input": "a", field: value, **SPARSE})
    check_refusal(response, 400, field, "invalid_value", "sparse")
    assert not backend.calls


@pytest.mark.parametrize("fields", [{}, {"encoding_format": "base64"}, {"dimensions": 4}])
@pytest.mark.parametrize("path", [EMBEDDINGS, ROUTE])
async def test_a_sparse_model_asked_for_dense_vectors_is_refused(client, path, fields):
    response = await send(client, path, {"input": "a", "model": "splade", **fields})
    check_refusal(response, 400, "model", "wrong_model_kind", "encoding_format", "plain")


@pytest.mark.parametrize("path", [RERANK, SIMILARITY])
async def test_a_sparse_model_scores_nothing(client, path):
    body = {"query": "a", "documents": ["b"], "model": "splade"}
    check_refusal(await send(client, path, body), 400, "model", "wrong_model_kind", "sparse")


async def test_a_sparse_model_is_no_first_stage():
    backend = FakeBackend(specs={spec.name: spec for spec in (PLAIN, JUDGE, SPLADE)})
    body = {"query": "a", "documents": ["b"], "prefilter": {"model": "splade"}}
    async with connect(app_of(backend)) as http:
        response = await send(http, RERANK, body)
    check_refusal(response, 400, "prefilter.model", "wrong_model_kind", "plain")


@pytest.mark.parametrize("model", ["plain", "medium"])
async def test_other_models_give_no_sparse_vectors(client, model):
    response = await send(client, EMBEDDINGS, {"input": "a", "model": model, **SPARSE})
    check_refusal(response, 400, "model", "wrong_model_kind", "splade")


async def test_without_a_sparse_model_there_are_no_sparse_vectors():
    async with connect(app_of(FakeBackend())) as http:
        response = await send(http, EMBEDDINGS, {"input": "a", "model": "auto", **SPARSE})
        check_refusal(response, 400, "model", "no_model_fits")


@pytest.mark.parametrize("model", ["auto", None])
async def test_dense_vectors_never_come_from_a_sparse_model(backend, model):
    only_sparse_first = FakeBackend(specs={SPLADE.name: SPLADE, **SPECS})
    async with connect(app_of(only_sparse_first)) as http:
        body = await embed(http, model=model)
    assert body["model"] != "splade"
    assert isinstance(body["data"][0]["embedding"], list)


async def test_models_say_their_kind_and_space(client):
    item = ok(await client.get("/v1/models/splade"))
    assert (item["kind"], item["space_id"]) == ("sparse", space_id(SPLADE))
