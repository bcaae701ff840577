"""Replicas come and go with the tokens: a real service whose engine sleeps, so cores do not matter."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from testing.running import RunningService, running_service
from testing.waiting import until

MODEL = "all-MiniLM-L6-v2"
# one request is 0.4 s of a replica's work
BODY = {"model": MODEL, "input": [" ".join(["word"] * 98)] * 16, "encoding_format": "base64"}
REPLICAS = {
    "min_replicas": 0,
    "max_replicas": 3,
    "offline_max_replicas": 2,
    "offline_after_s": 2,
    "downscale_delay_s": 5,
    "downscale_to_zero_delay_s": 10,
}


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    models = [{"name": MODEL, "replicas": REPLICAS, "token_budget": 1_024}]
    with running_service(models, [], app={"import_path": "testing.sleeping:build"}) as running:
        yield running


def look(service: RunningService) -> tuple[str, int]:
    with service.client() as http:
        model = http.get("/v1/models").json()["data"][0]
    return model["state"], model["replicas"]


@contextmanager
def callers(service: RunningService, count: int, lane: str) -> Iterator[list[httpx.Response]]:
    """Sends request after request from so many callers; a refused one comes again as it was told."""
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


def test_from_zero_to_what_is_needed_and_back(service):
    until(lambda: look(service) == ("cold", 0), 20)
    with callers(service, 12, "online") as answers:
        until(lambda: any(a.status_code == 200 for a in answers), 40)
        until(lambda: look(service)[1] == 3, 60)  # more than offline work may have
    assert {a.status_code for a in answers} <= {200, 503}
    assert all(float(a.headers["retry-after"]) > 0 for a in answers if a.status_code == 503)
    until(lambda: look(service) == ("cold", 0), 40)
    for _ in range(20):  # looking at a cold model does not wake it
        assert look(service) == ("cold", 0)
        time.sleep(0.25)


def test_offline_work_wakes_it_and_has_its_own_cap(service):
    until(lambda: look(service) == ("cold", 0), 20)
    most = 0
    with callers(service, 6, "offline") as offline:
        until(lambda: look(service)[1] == 2, 60)
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            most = max(most, look(service)[1])
            time.sleep(0.5)
        with service.client() as http:
            asked = time.monotonic()
            small = {"model": MODEL, "input": "a question"}
            assert http.post("/v1/embeddings", json=small).status_code == 200
            assert time.monotonic() - asked < 2
    assert most == 2
    assert {a.status_code for a in offline} == {200}
