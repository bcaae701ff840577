"""``GET /v1/usage``: each tenant sees what it has used, by model."""

from __future__ import annotations

import hashlib

import pytest

from deployments.api.auth import ApiKeys
from deployments.core.errors import Overloaded
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import Tenant
from tests.api.calls import EMBEDDINGS, RERANK, SIMILARITY, app_of, check_refusal, connect, ok
from tests.api.fake_backend import JUDGE, SPECS, FakeBackend

TENANTS = [
    Tenant("search"),
    Tenant("other"),
    Tenant("slow", tokens_per_minute={Lane.ONLINE: 600}),
    Tenant("none", concurrent_requests=1),
]
KEYS = {hashlib.sha256(tenant.name.encode()).digest(): tenant for tenant in TENANTS}
PAIR = {"query": "one", "documents": ["two", "three"]}


@pytest.fixture
def backend():
    return FakeBackend(specs={**SPECS, "judge": JUDGE})


@pytest.fixture
async def http(backend):
    async with connect(app_of(backend, ApiKeys(["plain", "another"], KEYS))) as client:
        yield client


async def post(http, key, path, body):
    return await http.post(path, json=body, headers={"authorization": f"Bearer {key}"})


async def usage(http, key):
    report = ok(await http.get("/v1/usage", headers={"authorization": f"Bearer {key}"}))
    assert (report["object"], report["routers"], report["complete"]) == ("usage", 1, True)
    counts = {item.pop("model"): tuple(item.values()) for item in report["data"]}
    return report["tenant"], counts


async def test_each_tenant_sees_its_own_requests_and_tokens_by_model(http):
    first = ok(await post(http, "search", EMBEDDINGS, {"input": ["a b", "c"], "model": "plain"}))
    second = ok(await post(http, "search", EMBEDDINGS, {"input": "a", "model": "plain"}))
    third = ok(await post(http, "search", EMBEDDINGS, {"input": "a", "model": "instruct"}))
    tokens = [answer["usage"]["total_tokens"] for answer in (first, second, third)]
    assert await usage(http, "search") == (
        "search",
        {"plain": (2, tokens[0] + tokens[1], 0), "instruct": (1, tokens[2], 0)},
    )
    assert await usage(http, "other") == ("other", {})


@pytest.mark.parametrize(
    ("path", "body", "models"),
    [
        (SIMILARITY, PAIR, ["plain"]),
        (RERANK, {**PAIR, "model": "plain"}, ["plain"]),
        (RERANK, {**PAIR, "model": "judge"}, ["judge"]),
        (RERANK, {**PAIR, "model": "judge", "prefilter": {"model": "plain"}}, ["judge", "plain"]),
    ],
)
async def test_a_request_counts_once_for_each_model_and_with_all_its_tokens(
    http, path, body, models
):
    answer = ok(await post(http, "search", path, body))
    _, counts = await usage(http, "search")
    assert sorted(counts) == models
    assert {requests for requests, _, _ in counts.values()} == {1}
    assert sum(tokens for _, tokens, _ in counts.values()) == answer["usage"]["total_tokens"]


async def test_refusals_are_counted_and_other_errors_are_not(http, backend):
    assert (await post(http, "slow", EMBEDDINGS, {"input": ["a"] * 200})).status_code == 429
    assert (await post(http, "slow", EMBEDDINGS, {"input": ""})).status_code == 400
    backend.failing = Overloaded("full", None, 1.0)
    assert (await post(http, "slow", EMBEDDINGS, {"input": "a"})).status_code == 429
    assert await usage(http, "slow") == ("slow", {"plain": (0, 0, 2)})


async def test_keys_without_a_name_count_as_one_tenant(http):
    for key in ("plain", "another"):
        ok(await post(http, key, EMBEDDINGS, {"input": "a"}))
    name, counts = await usage(http, "plain")
    assert (name, counts["plain"][0]) == ("default", 2)


async def test_it_needs_a_key(http):
    check_refusal(await http.get("/v1/usage"), 401, None, "invalid_api_key")


async def test_without_keys_it_shows_what_everybody_has_used(client):
    ok(await client.post(EMBEDDINGS, json={"input": "a"}))
    assert (await usage(client, ""))[0] == "default"
