"""Tenants at the API: whose key it is, and which models and priorities it may use."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import pytest

from deployments.api.auth import ApiKeys
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import ANYONE, Share, Tenant
from tests.api.calls import (
    EMBEDDINGS,
    RERANK,
    ROUTE,
    SIMILARITY,
    app_of,
    check_refusal,
    connect,
    ok,
)
from tests.api.fake_backend import JUDGE, SPECS, FakeBackend

ONE_MODEL = Tenant("one-model", models=frozenset({"instruct"}))
NIGHTLY = Tenant("nightly", highest_priority=Lane.OFFLINE)
TENANTS = {"search": Tenant("search"), "one": ONE_MODEL, "nightly": NIGHTLY}
DOCUMENTS = {"query": "a", "documents": ["b"]}


def digest(key):
    return hashlib.sha256(key.encode()).digest()


def keys_of(tenants):
    return {digest(key): tenant for key, tenant in tenants.items()}


@dataclass
class Service:
    backend: FakeBackend = field(
        default_factory=lambda: FakeBackend(specs={**SPECS, "judge": JUDGE})
    )
    keys: ApiKeys = field(default_factory=lambda: ApiKeys(["plain"], keys_of(TENANTS)))

    async def call(self, key, path, body=None):
        headers = {"authorization": f"Bearer {key}"}
        async with connect(app_of(self.backend, self.keys)) as http:
            if body is None:
                return await http.get(path, headers=headers)
            return await http.post(path, json=body, headers=headers)


@pytest.fixture
def service():
    return Service()


@pytest.mark.parametrize("key", ["plain", *TENANTS])
async def test_named_keys_and_plain_ones_open_the_api(service, key):
    ok(await service.call(key, EMBEDDINGS, {"input": "a"}))


async def test_the_hash_is_no_key(service):
    hashed = hashlib.sha256(b"search").hexdigest()
    refused = await service.call(hashed, EMBEDDINGS, {"input": "a"})
    check_refusal(refused, 401, None, "invalid_api_key")


async def test_keys_come_and_go_while_the_service_runs(service):
    service.keys.use(keys_of({"new": Tenant("search")}))
    assert (await service.call("search", "/v1/models")).status_code == 401
    assert (await service.call("new", "/v1/models")).status_code == 200
    assert (await service.call("plain", "/v1/models")).status_code == 200


BODIES = [
    (EMBEDDINGS, {"input": "a"}, "model"),
    (ROUTE, {"input": "a"}, "model"),
    (SIMILARITY, DOCUMENTS, "model"),
    (RERANK, DOCUMENTS, "model"),
]


@pytest.mark.parametrize("named", ["plain", "acme/plain", "plain-query", "openai/plain"])
@pytest.mark.parametrize(("path", "body", "param"), BODIES)
async def test_a_model_that_a_key_may_not_use_is_refused_by_name(service, path, body, param, named):
    refused = await service.call("one", path, {**body, "model": named})
    check_refusal(refused, 403, param, "model_not_allowed", "'plain'" if "/" not in named else "")
    assert service.backend.calls == []


async def test_the_first_of_two_stages_is_such_a_model_too(service):
    service.keys.use(keys_of({"judge": Tenant("judge", models=frozenset({"judge"}))}))
    body = {**DOCUMENTS, "model": "judge", "prefilter": {"model": "plain"}}
    refused = await service.call("judge", RERANK, body)
    check_refusal(refused, 403, "prefilter.model", "model_not_allowed")


@pytest.mark.parametrize("named", [{}, {"model": "auto"}, {"model": "instruct"}])
@pytest.mark.parametrize(("path", "body", "param"), BODIES)
async def test_what_names_no_other_model_is_answered_by_one_that_the_key_may_use(
    service, path, body, param, named
):
    answer = ok(await service.call("one", path, {**body, **named}))
    assert answer["model"] == "instruct"


async def test_an_unknown_model_is_unknown_to_everybody(service):
    refused = await service.call("one", EMBEDDINGS, {"input": "a", "model": "nothing"})
    check_refusal(refused, 404, "model", "model_not_found")
    assert "plain" not in refused.json()["error"]["message"]


async def test_the_lists_show_the_models_that_the_key_may_use(service):
    listing = ok(await service.call("one", "/v1/models"))
    assert [item["id"] for item in listing["data"]] == ["instruct"]
    assert {tuple(space["members"]) for space in listing["spaces"]} == {("instruct",)}
    assert ok(await service.call("one", "/v1/models/instruct"))["id"] == "instruct"
    refused = await service.call("one", "/v1/models/plain")
    check_refusal(refused, 403, "model", "model_not_allowed")
    tags = ok(await service.call("one", "/api/tags"))
    assert [item["name"] for item in tags["models"]] == ["instruct"]
    assert ok(await service.call("one", "/info"))["served_model_name"] == "instruct"
    candidates = ok(await service.call("one", ROUTE, {"input": "a"}))["candidates"]
    assert [candidate["model"] for candidate in candidates] == ["instruct"]
    assert len(ok(await service.call("search", "/v1/models"))["data"]) == 4


PRIORITIES = [
    (EMBEDDINGS, {"input": "a"}),
    (SIMILARITY, DOCUMENTS),
    (RERANK, DOCUMENTS),
    ("/embed", {"inputs": "a"}),
    ("/api/embed", {"model": "plain", "input": "a"}),
]


@pytest.mark.parametrize(("path", "body"), PRIORITIES)
@pytest.mark.parametrize(("key", "lane"), [("nightly", Lane.OFFLINE), ("search", Lane.ONLINE)])
async def test_without_a_priority_a_request_has_the_highest_of_its_key(
    service, path, body, key, lane
):
    ok_or_list = await service.call(key, path, body)
    assert ok_or_list.status_code == 200
    assert {call[2] for call in service.backend.calls} == {lane}


@pytest.mark.parametrize(("path", "body"), PRIORITIES[:3])
async def test_a_priority_over_that_of_the_key_is_refused(service, path, body):
    refused = await service.call("nightly", path, {**body, "priority": "online"})
    check_refusal(refused, 403, "priority", "priority_not_allowed")
    ok(await service.call("nightly", path, {**body, "priority": "offline"}))
    ok(await service.call("search", path, {**body, "priority": "online"}))


@pytest.mark.parametrize(
    ("key", "share"), [("heavy", Share("heavy", 4.0)), ("plain", ANYONE.share)]
)
@pytest.mark.parametrize(("path", "body"), PRIORITIES)
async def test_replicas_are_told_whose_texts_they_compute(service, path, body, key, share):
    service.keys.use(keys_of({"heavy": Tenant("heavy", weight=4.0)}))
    assert (await service.call(key, path, body)).status_code == 200
    assert {request.share for _, request, _ in service.backend.calls} == {share}
