"""Limits of tenants over HTTP: 429 for the one that has used up its own, with OpenAI's headers."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from deployments.api.auth import ApiKeys
from deployments.api.rate_limits import duration
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import Tenant
from tests.api.calls import EMBEDDINGS, RERANK, SIMILARITY, app_of, check_refusal, connect, ok
from tests.api.fake_backend import JUDGE, SPECS, FakeBackend

ONLINE, OFFLINE = Lane.ONLINE, Lane.OFFLINE
# 10 tokens a second, of which 30 are held; long enough that a test adds hardly any
SLOW = Tenant("slow", tokens_per_minute={ONLINE: 600})
TENANTS = {
    "slow": SLOW,
    "nightly": Tenant("nightly", highest_priority=OFFLINE, tokens_per_minute={OFFLINE: 60_000}),
    "one": Tenant("one", concurrent_requests=1),
    "free": Tenant("free"),
}
KEYS = {hashlib.sha256(key.encode()).digest(): tenant for key, tenant in TENANTS.items()}
TEXT = "one two three four five six"  # the fake backend's 9 tokens, and estimated to be 10
LIMITS = [f"x-ratelimit-{a}-{b}" for a in ("limit", "remaining", "reset") for b in ("tokens",)]


@pytest.fixture
def backend():
    return FakeBackend(specs={**SPECS, "judge": JUDGE})


@pytest.fixture
async def http(backend):
    async with connect(app_of(backend, ApiKeys(["plain"], KEYS))) as client:
        yield client


async def post(http, key, body, path=EMBEDDINGS):
    return await http.post(path, json=body, headers={"authorization": f"Bearer {key}"})


async def until_refused(http, key, path=EMBEDDINGS, body=None):
    for _ in range(100):
        answer = await post(http, key, body or {"input": TEXT}, path)
        if answer.status_code != 200:
            return answer
    raise AssertionError("it is never refused")


async def test_a_tenant_over_its_limit_is_refused_and_others_are_not(http):
    refused = await until_refused(http, "slow")
    check_refusal(refused, 429, None, "rate_limit_exceeded", "slow", "600 online tokens per minute")
    assert 1 <= int(refused.headers["retry-after"]) <= 3
    assert 1 <= int(refused.headers["retry-after-ms"]) <= 3_000
    for key in ("free", "plain", "nightly"):
        ok(await post(http, key, {"input": TEXT}))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SIMILARITY, {"query": TEXT, "documents": [TEXT]}),
        (RERANK, {"query": TEXT, "documents": [TEXT], "model": "plain"}),
        (RERANK, {"query": "one", "documents": ["two"], "model": "judge"}),
        ("/embed", {"inputs": TEXT}),
        ("/api/embed", {"model": "plain", "input": TEXT}),
        ("/v1/embed", {"texts": [TEXT], "model": "plain", "input_type": "search_query"}),
        ("/score", {"text_1": TEXT, "text_2": TEXT, "model": "plain"}),
    ],
)
async def test_every_route_that_computes_is_limited(http, path, body):
    assert (await until_refused(http, "slow", path, body)).status_code == 429


async def test_headers_say_what_is_left_after_the_tokens_that_were_really_computed(http):
    answer = await post(http, "slow", {"input": TEXT})
    headers, computed = answer.headers, ok(answer)["usage"]["total_tokens"]
    assert computed == 9
    assert headers["x-ratelimit-limit-tokens"] == "600"
    assert int(headers["x-ratelimit-remaining-tokens"]) == 30 - computed
    assert headers["x-ratelimit-reset-tokens"].endswith("ms")
    assert "x-ratelimit-limit-requests" not in headers


async def test_the_refusal_has_the_headers_too(http):
    refused = await until_refused(http, "slow")
    assert [name for name in LIMITS if name not in refused.headers] == []


async def test_the_headers_are_those_of_the_lane_that_was_used(http):
    online = await post(http, "slow", {"input": TEXT})
    offline = await post(http, "slow", {"input": TEXT, "priority": "offline"})
    assert "x-ratelimit-limit-tokens" in online.headers
    assert "x-ratelimit-limit-tokens" not in offline.headers
    assert (await post(http, "nightly", {"input": TEXT})).headers[LIMITS[0]] == "60000"


@pytest.mark.parametrize("key", ["free", "plain"])
async def test_without_a_limit_there_are_no_headers(http, key):
    answer = await post(http, key, {"input": TEXT})
    assert [name for name in answer.headers if name.startswith("x-ratelimit")] == []


async def test_a_request_over_a_whole_minute_is_not_to_be_sent_again(http):
    refused = await post(http, "slow", {"input": [TEXT] * 100})
    check_refusal(refused, 429, None, "rate_limit_exceeded", "send fewer texts")
    assert "retry-after" not in refused.headers


async def test_what_was_not_computed_costs_nothing(http, backend):
    backend.failing = ModelUnavailable("no replica", "model", 1.0)
    for _ in range(20):
        assert (await post(http, "slow", {"input": TEXT})).status_code == 503
    for _ in range(20):
        assert (await post(http, "slow", {"input": ""})).status_code == 400
    backend.failing = None
    assert int((await post(http, "slow", {"input": TEXT})).headers[LIMITS[1]]) == 30 - 9


async def test_texts_that_are_cut_count_as_cut(http, backend):
    limit = SPECS["plain"].max_tokens
    assert limit < 30
    body = {"input": "word " * 5_000, "truncate": True}
    answer = ok(await post(http, "slow", body))
    assert answer["usage"]["total_tokens"] == limit


async def test_requests_in_progress(http, backend):
    entered, go_on = asyncio.Event(), asyncio.Event()
    encode = backend.encode

    async def held(*call):
        entered.set()
        await go_on.wait()
        return await encode(*call)

    backend.encode = held
    first = asyncio.create_task(post(http, "one", {"input": TEXT}))
    await asyncio.wait_for(entered.wait(), 10)
    refused = await post(http, "one", {"input": TEXT})
    check_refusal(refused, 429, None, "rate_limit_exceeded", "one has 1 requests in progress")
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    models = await http.get("/v1/models", headers={"authorization": "Bearer one"})
    assert models.status_code == 200
    go_on.set()
    ok(await post(http, "free", {"input": TEXT}))
    assert (await first).headers["x-ratelimit-limit-requests"] == "1"
    ok(await post(http, "one", {"input": TEXT}))


async def test_the_refusal_on_routes_of_other_servers_has_their_shape(http):
    refused = await until_refused(http, "slow", "/embed", {"inputs": TEXT})
    assert set(refused.json()) == {"error", "error_type"}
    assert "retry-after" in refused.headers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.0204, "20ms"),
        (0.9996, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (360.4, "6m0s"),
    ],
)
def test_durations_are_written_as_openai_does(seconds, text):
    assert duration(seconds) == text
