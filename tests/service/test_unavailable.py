"""Models that cannot answer: the others serve, the error gives the reason at once, and they recover."""

from __future__ import annotations

import time

import pytest

from testing.processes import replicas
from testing.waiting import until
from tests.service.conftest import damage, mend

REASONS = {"e5-small-v2": "hub", "broken": "weights", "linq-embed-mistral": "GPU"}
PROMISED_S = 5.0


@pytest.mark.parametrize("model", REASONS)
def test_503_with_the_reason_within_five_seconds(service, model):
    with service.client() as http:
        started = time.monotonic()
        answer = http.post("/v1/embeddings", json={"model": model, "input": "x"})
        assert time.monotonic() - started < PROMISED_S
    error = answer.json()["error"]
    assert answer.status_code == 503
    assert REASONS[model] in error["message"]
    assert (error["code"], error["param"]) == ("model_unavailable", "model")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("model", REASONS)
def test_models_shows_the_state_and_why(service, model):
    with service.client() as http:
        cards = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert cards[model]["state"] == "unavailable"
    assert REASONS[model] in cards[model]["reason"]
    assert cards["all-MiniLM-L6-v2"]["state"] == "ready"


def test_no_crash_loop(service):
    """The replica of a model that cannot load stays the same process."""
    before = replicas(service, "encoder-broken")
    with service.client() as http:
        for _ in range(20):
            http.post("/v1/embeddings", json={"model": "broken", "input": "x"})
    time.sleep(6)  # it tries to load again every five seconds
    assert len(before) == 1
    assert replicas(service, "encoder-broken") == before


def test_recovers_without_a_restart(service, broken_model):
    mend(broken_model)
    try:
        until(lambda: answers(service, "broken"), 90)  # its tokenizer is described anew
    finally:
        damage(broken_model)


def answers(service, model: str) -> bool:
    with service.client() as http:
        status = http.post("/v1/embeddings", json={"model": model, "input": "x"}).status_code
    assert status in (200, 503)
    return status == 200
