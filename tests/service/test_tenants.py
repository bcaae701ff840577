"""Tenants of a running service with two routers."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
import yaml

from testing.hashing import save_model
from testing.processes import replicas
from testing.running import RunningService
from testing.waiting import until

MODEL, SLOW = "hashed", "slow"
SLOW_TOKENS_PER_S, SLOW_BUDGET = 8_000, 512
PER_MINUTE = 60_000
PAGE = "https://app.example.com"
TEXT = "word " * 40


def entry(name, **rights):
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **rights}


FIRST = [
    entry("big"),
    entry("small"),
    entry("limited", tokens_per_minute={"online": PER_MINUTE}),
    # four fifths of a lane, and a third of what the model computes
    entry("heavy", weight=4),
    entry("bounded", tokens_per_minute={"online": SLOW_TOKENS_PER_S * 60 // 3}),
]


@dataclass
class Tenants:
    service: RunningService
    file: object

    def write(self, entries):
        new = self.file.with_name("new")
        new.write_text(yaml.safe_dump({"keys": entries}))
        new.replace(self.file)

    def client(self, key):
        headers = {"authorization": f"Bearer {key}"}
        return httpx.Client(
            base_url=self.service.url, headers=headers, timeout=60, verify=False, trust_env=False
        )

    def opens(self, key):
        with self.client(key) as http:
            return http.get("/v1/models").status_code == 200


@pytest.fixture(scope="module")
def tenants(shared_service, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tenants")
    path = str(save_model(folder / MODEL))
    slow = save_model(folder / SLOW, seed=2, tokens_per_s=SLOW_TOKENS_PER_S)
    models = [
        {"name": MODEL, "path": path, "num_cpus": 0},
        {"name": SLOW, "path": str(slow), "num_cpus": 0, "token_budget": SLOW_BUDGET},
    ]
    made = Tenants(None, folder / "keys.yaml")
    made.write(FIRST)
    app = {"import_path": "testing.hashing:build"}
    api = {"keys_file": str(made.file), "cors_origins": [PAGE]}
    made.service = shared_service.serve(models, [MODEL, SLOW], app, routers=2, api=api)
    until(lambda: len(replicas(made.service, "router")) == 2, 60)
    return made


@dataclass
class Traffic:
    """What callers were answered: statuses, and when which tokens were computed."""

    statuses: Counter = field(default_factory=Counter)
    tokens: list[tuple[float, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@contextmanager
def traffic(tenants, key, callers, texts=TEXT, model=MODEL) -> Iterator[Traffic]:
    """Callers that send one request after the other, at once after each answer."""
    seen, over = Traffic(), threading.Event()

    def call():
        with tenants.client(key) as http:
            while not over.is_set():
                started = time.perf_counter()
                answer = http.post("/v1/embeddings", json={"model": model, "input": texts})
                seen.seconds.append(time.perf_counter() - started)
                seen.statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    tokens = answer.json()["usage"]["total_tokens"]
                    seen.tokens.append((time.monotonic(), tokens))
                else:
                    time.sleep(min(0.1, float(answer.headers.get("retry-after-ms", 100)) / 1000))

    with ThreadPoolExecutor(callers) as pool:
        calls = [pool.submit(call) for _ in range(callers)]
        try:
            yield seen
        finally:
            over.set()
        for done in calls:
            done.result()


def test_keys_come_and_go_under_load_and_nobody_is_disturbed(tenants):
    with traffic(tenants, "big", 4) as big:
        time.sleep(0.5)
        tenants.write([*FIRST, entry("new")])
        until(lambda: all(tenants.opens("new") for _ in range(10)), 10, "both routers know it")
        tenants.file.write_text("keys: [{name: broken}]")
        time.sleep(2.5)
        assert all(tenants.opens("new") for _ in range(10))
        tenants.write(FIRST)
        until(
            lambda: not any(tenants.opens("new") for _ in range(10)), 10, "both routers forget it"
        )
    assert set(big.statuses) == {200}
    assert big.statuses[200] > 20


def test_a_tenant_over_its_limit_is_refused_and_another_is_not(tenants):
    with traffic(tenants, "limited", 8) as limited, traffic(tenants, "small", 1) as small:
        time.sleep(3)
    assert set(small.statuses) == {200}
    assert set(limited.statuses) == {200, 429}
    # what three seconds bring and what is held, which the other router may not know of in time
    assert sum(tokens for _, tokens in limited.tokens) <= PER_MINUTE / 60 * (3 + 3 + 3)


@pytest.mark.long
def test_two_routers_keep_a_limit_to_within_ten_percent_over_a_minute(tenants):
    time.sleep(4)  # until all has come back, which makes the minute that follows the fullest
    with traffic(tenants, "limited", 8) as limited:
        began = time.monotonic()
        time.sleep(60.5)
    tokens = sum(tokens for at, tokens in limited.tokens if at < began + 60)
    print(f"{tokens} of {PER_MINUTE} tokens in a minute")
    assert tokens == pytest.approx(PER_MINUTE, rel=0.1)


def test_a_page_of_a_listed_origin_may_call_and_others_may_not(tenants):
    asked = {"access-control-request-method": "POST"}
    with httpx.Client(base_url=tenants.service.url, trust_env=False) as browser:
        ours = browser.options("/v1/embeddings", headers={"origin": PAGE, **asked})
        other = browser.options("/v1/embeddings", headers={"origin": PAGE + ".evil.com", **asked})
    assert (ours.status_code, ours.headers["access-control-allow-origin"]) == (200, PAGE)
    assert (other.status_code, other.headers.get("access-control-allow-origin")) == (400, None)


# 20 texts of 42 tokens: 0.1 s of the slow model alone, in two passes
BATCH = [TEXT] * 20


def slowest_percent(tenants, key, seconds) -> float:
    """Returns the p99 of one caller, in seconds."""
    with traffic(tenants, key, 1, BATCH, SLOW) as seen:
        time.sleep(seconds)
    assert set(seen.statuses) == {200}
    return sorted(seen.seconds)[int(0.99 * len(seen.seconds))]


def median(seconds):
    return sorted(seconds)[len(seconds) // 2]


def test_the_flood_of_one_tenant_does_not_become_the_wait_of_another(tenants):
    """Ten callers against one: in one queue the one would wait for ten others, and so ten times as long.

    Each tenant has half of the replica, and "heavy" four fifths.
    """
    with traffic(tenants, "small", 1, BATCH, SLOW) as alone:
        time.sleep(2)
    with traffic(tenants, "big", 10, BATCH, SLOW) as big:
        time.sleep(1)
        with traffic(tenants, "small", 1, BATCH, SLOW) as small:
            time.sleep(3)
        with traffic(tenants, "heavy", 1, BATCH, SLOW) as heavy:
            time.sleep(3)
    assert set(big.statuses) == set(small.statuses) == set(heavy.statuses) == {200}
    assert median(small.seconds) < 4 * median(alone.seconds)
    assert median(heavy.seconds) < median(small.seconds)


@pytest.mark.long
def test_a_tenant_beside_one_that_is_over_its_limit_is_hardly_slower_than_alone(tenants):
    alone = slowest_percent(tenants, "heavy", 20)
    with traffic(tenants, "bounded", 10, BATCH, SLOW) as bounded:
        time.sleep(5)
        beside = slowest_percent(tenants, "heavy", 20)
    assert bounded.statuses[429] > 0
    print(f"p99 alone {alone * 1e3:.0f} ms, beside ten times the load {beside * 1e3:.0f} ms")
    assert beside < 1.5 * alone


def test_usage_is_that_of_both_routers_and_reaches_prometheus(tenants):
    with tenants.client("small") as http:
        before = usage(http)
        for _ in range(20):
            http.post("/v1/embeddings", json={"model": MODEL, "input": TEXT}).raise_for_status()
        after = usage(http)
        assert after["requests"] - before["requests"] == 20
        assert after["tokens"] - before["tokens"] == 20 * 42
        with tenants.client("big") as other:
            assert usage(other) != after

        def reported():
            lines = http.get("/metrics").text.splitlines()
            mine = [line for line in lines if line.startswith("embedfleet_tenant_tokens_total{")]
            return any('tenant="small"' in line and f'model="{MODEL}"' in line for line in mine)

        until(reported, 45)


def usage(http):
    report = http.get("/v1/usage").raise_for_status().json()
    assert (report["routers"], report["complete"]) == (2, True)
    nothing = {"requests": 0, "tokens": 0}
    return next((item for item in report["data"] if item["model"] == MODEL), nothing)
