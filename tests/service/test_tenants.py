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

MODEL = "hashed"
PER_MINUTE = 60_000
TEXT = "word " * 40


def entry(name, **rights):
    return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), **rights}


FIRST = [
    entry("big"),
    entry("small"),
    entry("limited", tokens_per_minute={"online": PER_MINUTE}),
    entry("one", concurrent_requests=2),
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
    models = [{"name": MODEL, "path": path, "num_cpus": 0}]
    made = Tenants(None, folder / "keys.yaml")
    made.write(FIRST)
    app, api = {"import_path": "testing.hashing:build"}, {"keys_file": str(made.file)}
    made.service = shared_service.serve(models, [MODEL], app, routers=2, api=api)
    until(lambda: len(replicas(made.service, "router")) == 2, 60)
    return made


@dataclass
class Traffic:
    """What callers were answered: statuses, and when which tokens were computed."""

    statuses: Counter = field(default_factory=Counter)
    tokens: list[tuple[float, int]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@contextmanager
def traffic(tenants, key, callers, text=TEXT) -> Iterator[Traffic]:
    """Callers that send one text after the other, at once after each answer."""
    seen, over = Traffic(), threading.Event()

    def call():
        with tenants.client(key) as http:
            while not over.is_set():
                started = time.perf_counter()
                answer = http.post("/v1/embeddings", json={"model": MODEL, "input": text})
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
        time.sleep(5)
    assert set(small.statuses) == {200}
    assert set(limited.statuses) == {200, 429}
    # what three seconds and five seconds bring, at most one router's three seconds more
    assert sum(tokens for _, tokens in limited.tokens) <= PER_MINUTE / 60 * (3 + 5 + 3)


@pytest.mark.long
def test_two_routers_keep_a_limit_to_within_ten_percent_over_a_minute(tenants):
    time.sleep(10)  # until everything has come back
    with traffic(tenants, "limited", 8) as limited:
        began = time.monotonic()
        time.sleep(121)
    for start in (began, began + 30, began + 60):
        tokens = sum(tokens for at, tokens in limited.tokens if start <= at < start + 60)
        assert tokens == pytest.approx(PER_MINUTE, rel=0.1)
