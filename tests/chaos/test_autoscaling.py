"""Replicas come and go with the tokens. The engine sleeps, so the cores do not matter."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from testing.hashing import save_model
from testing.running import RunningService
from testing.shared_service import SharedService
from testing.waiting import until

MODEL = "scaled"
# one request is 0.4 s of a replica's work
BODY = {"model": MODEL, "input": [" ".join(["word"] * 98)] * 16, "encoding_format": "base64"}
TOKENS_PER_S = 4_000
REPLICAS = {
    "min_replicas": 0,
    "max_replicas": 3,
    "offline_max_replicas": 2,
    "offline_after_s": 2,
    "downscale_delay_s": 5,
    "downscale_to_zero_delay_s": 10,
}
CAPPED_S = 5.0


@pytest.fixture(scope="module")
def service(shared_service: SharedService, tmp_path_factory) -> RunningService:
    folder = save_model(tmp_path_factory.mktemp("models") / MODEL, tokens_per_s=TOKENS_PER_S)
    models = [{"name": MODEL, "path": str(folder), "replicas": REPLICAS}]
    return shared_service.serve(models, [], {"import_path": "testing.hashing:build"})


def state(service: RunningService) -> tuple[str, int]:
    with service.client() as http:
        (model,) = http.get("/v1/models").json()["data"]
    return model["state"], model["replicas"]


@contextmanager
def callers(service: RunningService, count: int, lane: str) -> Iterator[list[httpx.Response]]:
    """Sends requests without pause from ``count`` callers, which obey `retry-after`."""
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def call() -> None:
        with service.client() as http:
            while not stop.is_set():
                answer = http.post("/v1/embeddings", json={**BODY, "priority": lane})
                answers.append(answer)
                if answer.status_code != 200:
                    stop.wait(float(answer.headers["retry-after"]))

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.long
def test_offline_work_wakes_a_cold_model_and_has_its_own_cap(service):
    until(lambda: state(service) == ("cold", 0), 20)
    most = 0
    with callers(service, 6, "offline") as offline:
        until(lambda: state(service)[1] == 2, 60)
        deadline = time.monotonic() + CAPPED_S
        while time.monotonic() < deadline:
            most = max(most, state(service)[1])
            time.sleep(0.5)
        with service.client() as http:
            started = time.monotonic()
            small = {"model": MODEL, "input": "a question"}
            assert http.post("/v1/embeddings", json=small).status_code == 200
            assert time.monotonic() - started < 2
    assert most == 2
    assert {a.status_code for a in offline} <= {200, 503}
    assert all(float(a.headers["retry-after"]) > 0 for a in offline if a.status_code == 503)


@pytest.mark.long
def test_online_work_gets_all_replicas_and_then_they_go(service):
    with callers(service, 12, "online") as answers:
        until(lambda: any(a.status_code == 200 for a in answers), 40)
        until(lambda: state(service)[1] == 3, 60)  # more than offline work may have
    assert {a.status_code for a in answers} <= {200, 503}
    until(lambda: state(service) == ("cold", 0), 40)
    for _ in range(8):  # looking at a cold model does not wake it
        assert state(service) == ("cold", 0)
        time.sleep(0.25)


def test_a_call_wakes_a_cold_model(service):
    with callers(service, 1, "online") as answers:
        until(lambda: any(a.status_code == 200 for a in answers), 40)
    assert {a.status_code for a in answers} <= {200, 503}
