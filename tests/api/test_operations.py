"""The routes for operators: models, health, readiness, metrics, and the documentation."""

from __future__ import annotations

import re

import pytest

from deployments.api.operations import ASSETS
from deployments.core.models.space import space_id
from tests.api.calls import check_refusal, ok
from tests.api.fake_backend import NESTED, PLAIN, SPECS


async def models(http):
    body = ok(await http.get("/v1/models"))
    assert body["object"] == "list"
    return {item["id"]: item for item in body["data"]}


async def test_models_are_listed_with_everything_known_about_them(client):
    listed = await models(client)
    assert list(listed) == list(SPECS)
    assert listed["plain"] == {
        "id": "plain",
        "object": "model",
        "created": 0,
        "kind": "embedder",
        "owned_by": "acme",
        "hugging_face_id": "acme/plain",
        "state": "ready",
        "reason": None,
        "replicas": 1,
        "size": "small",
        "dimension": 8,
        "dimensions": [8],
        "max_tokens": PLAIN.max_tokens,
        "languages": ["en"],
        "space_id": space_id(PLAIN),
        "licence": "unknown",
        "default_instruction": None,
        "trust_remote_code": False,
        "notices": [],
        "device": "cpu",
        "dtype": "float32",
        "tokens_per_s": 1_000,
        "waiting_tokens": 0,
        "network": "fast",
        "why_general": None,
        "compared_with": "sentence-transformers",
        "token_budget": 8_192,
        "streams": 1,
        "gpu_ids": [],
        "memory_mib": None,
        "shared_space": None,
    }
    assert listed["nested"]["dimensions"] == list(NESTED.dimensions)
    assert listed["instruct"]["default_instruction"] == "Find what answers"


@pytest.mark.parametrize("by", ["id", "hugging_face_id"])
async def test_one_model_by_its_name(client, by):
    listed = ok(await client.get("/v1/models"))["data"]
    for model in listed:
        assert ok(await client.get(f"/v1/models/{model[by]}")) == model


@pytest.mark.parametrize("name", ["plain", "medium"])
async def test_a_model_by_the_name_that_litellm_sends(client, name):
    listed = ok(await client.get(f"/v1/models/{name}"))
    assert ok(await client.get(f"/v1/models/openai/{name}")) == listed


async def test_the_first_model_of_a_size(client):
    assert ok(await client.get("/v1/models/medium"))["id"] == "instruct"


async def test_an_unknown_model(client):
    response = await client.get("/v1/models/nobody/none")
    check_refusal(response, 404, "model", "model_not_found", "nobody/none")


async def test_models_that_do_not_answer_have_a_reason(client, backend):
    backend.states["plain"] = "unavailable"
    model = (await models(client))["plain"]
    assert (model["state"], model["reason"]) == ("unavailable", "it is unavailable")
    assert model["replicas"] == 0


@pytest.mark.parametrize("state", ["ready", "starting", "unavailable"])
async def test_health_does_not_depend_on_the_models(client, backend, state):
    backend.states = dict.fromkeys(SPECS, state)
    assert ok(await client.get("/health")) == {"status": "ok"}


@pytest.mark.parametrize(
    ("states", "status"),
    [
        (("ready", "ready", "ready"), 200),
        (("unavailable", "starting", "ready"), 200),
        (("cold", "unavailable", "starting"), 200),
        (("starting", "starting", "starting"), 503),
        (("unavailable", "starting", "unavailable"), 503),
    ],
)
async def test_ready_once_a_model_answers(client, backend, states, status):
    backend.states = dict(zip(SPECS, states, strict=True))
    response = await client.get("/ready")
    assert response.status_code == status
    word = "ready" if status == 200 else "not ready"
    assert response.json() == {"status": word, "reason": None, "models": backend.states}


async def test_a_service_that_has_lost_its_cluster_is_not_ready_but_alive(client, backend):
    backend.problem = "the Ray cluster has not answered for 31 s"
    response = await client.get("/ready")
    assert response.status_code == 503
    assert (response.json()["status"], response.json()["reason"]) == ("not ready", backend.problem)
    ok(await client.get("/health"))


async def test_metrics_come_from_the_backend(client):
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.text == "embedfleet_texts_total 1\n"
    assert response.headers["content-type"].startswith("text/plain")


async def test_the_docs_page_needs_no_other_host(client):
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    files = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert {f"/{file}" for file in files} == set(ASSETS)
    for file in files:
        response = await client.get(f"/{file}")
        assert response.status_code == 200
        assert len(response.content) > 500
    assert 'url: "openapi.json"' in page.text
    assert "//" not in page.text.replace("</", "")  # nothing from another host
