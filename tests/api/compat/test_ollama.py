"""Ollama's routes for vectors."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.core.request import EncodeRequest
from tests.api.calls import app_of, connect, embed, ok, send
from tests.api.fake_backend import JUDGE, NESTED, SPECS, SPLADE, FakeBackend, expected


@pytest.mark.parametrize("model", ["plain", "plain:latest"])
@pytest.mark.parametrize("texts", ["a", ["a", "b c"]])
async def test_embed(client, model, texts):
    answer = ok(await send(client, "/api/embed", {"model": model, "input": texts}))
    ours = await embed(client, input=texts)
    assert answer["embeddings"] == [item["embedding"] for item in ours["data"]]
    assert answer["model"] == model
    assert answer["prompt_eval_count"] == ours["usage"]["total_tokens"]
    assert answer["total_duration"] > 0


async def test_embed_normalises_and_the_older_route_leaves_vectors_as_the_model_does(client):
    answer = ok(await send(client, "/api/embed", {"model": "nested", "input": "a"}))
    assert np.linalg.norm(answer["embeddings"][0]) == pytest.approx(1, abs=1e-5)
    older = ok(await send(client, "/api/embeddings", {"model": "nested", "prompt": "a"}))
    raw = expected(NESTED, EncodeRequest(("a",)))[0]
    assert older == {"embedding": pytest.approx(raw.tolist(), abs=1e-6)}


async def test_dimensions_and_truncation(client):
    body = {"model": "nested", "input": "a", "dimensions": 2}
    assert np.shape(ok(await send(client, "/api/embed", body))["embeddings"]) == (1, 2)
    body = {"model": "plain", "input": "far " * 40}
    refused = await send(client, "/api/embed", body)
    assert refused.status_code == 400
    assert set(refused.json()) == {"error"}
    response = await send(client, "/api/embed", {**body, "truncate": True})
    ok(response)
    assert response.headers["x-truncated-texts"] == "1"


async def test_tags_are_the_models_that_give_vectors():
    others = {JUDGE.name: JUDGE, SPLADE.name: SPLADE}
    async with connect(app_of(FakeBackend(specs={**SPECS, **others}))) as http:
        listed = ok(await http.get("/api/tags"))["models"]
    assert [model["name"] for model in listed] == list(SPECS)


async def test_an_unknown_model(client):
    refused = await send(client, "/api/embed", {"model": "none:latest", "input": "a"})
    assert refused.status_code == 404
    assert "'none'" in refused.json()["error"]
