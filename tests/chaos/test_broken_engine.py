"""Texts that kill a replica or hang its engine are refused, and no other text is."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from testing.encoding import check_exactly_once, encode, rejects_of
from testing.hashing import save_model
from testing.waiting import until
from tests.support.breakable import BREAK, POISON, SLEEP

MODEL = "breakable"
GOOD = 300
HEALTH = {"name": f"encoder-{MODEL}", "health_check_period_s": 1, "health_check_timeout_s": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / MODEL)


@pytest.fixture(scope="module")
def service(shared_service, folder):
    """Two replicas, and one router, so that one client meets each text."""
    models = [{"name": MODEL, "path": str(folder), "replicas": 2}]
    app = {"import_path": "tests.support.breakable:build", "deployments": [HEALTH]}
    return shared_service.serve(models, [MODEL], app)


@pytest.fixture
def deaths(folder):
    """Returns the deaths of the test so far."""
    file = folder / "deaths.log"
    file.write_text("")
    return lambda: file.read_text().splitlines()


def ask(service, *texts):
    """Retries while no replica is left, as clients do that obey `retry-after`."""
    body = {"model": MODEL, "input": list(texts)}
    deadline = time.monotonic() + 100
    with service.client(timeout_s=100.0) as http:
        while (answer := http.post("/v1/embeddings", json=body)).status_code == 503:
            assert answer.json()["error"]["code"] == "model_unavailable"
            assert time.monotonic() < deadline
            time.sleep(float(answer.headers["retry-after"]))
    return answer


def check_refused(answer):
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "text_kills_replicas"


def test_one_poisoned_text_among_many(service, deaths):
    texts = [f"text number {number}" for number in range(GOOD)]
    texts.insert(GOOD // 2, POISON)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: ask(service, text), texts))
    poisoned = answers.pop(GOOD // 2)
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    assert all(len(answer.json()["data"]) == 1 for answer in answers)
    check_refused(poisoned)
    assert len(deaths()) == 2
    started = time.monotonic()
    check_refused(ask(service, "a good one", POISON))
    assert time.monotonic() - started < 5
    assert len(deaths()) == 2


def rejects(service, folder, bad):
    """Encodes a corpus of 500 good texts, named by number, and ``bad``; returns the rejects."""
    texts = {str(number): f"sentence number {number}" for number in range(500)} | bad
    table = pa.table({"id": list(texts), "text": list(texts.values())})
    pq.write_table(table, folder / "corpus.parquet")
    out = folder / "out"
    encode(service, folder / "corpus.parquet", out, MODEL, id_column="id")
    check_exactly_once(out, set(texts))
    return rejects_of(out)


def test_a_corpus_with_a_poisoned_text(service, deaths, tmp_path):
    rejected = rejects(service, tmp_path, {"killer": f"a corpus may also {POISON}"})
    assert set(rejected) == {"killer"}
    assert len(deaths()) == 2


@pytest.mark.long
def test_an_engine_that_fails_for_good_is_replaced_and_no_row_is_lost(service, deaths, tmp_path):
    rejected = rejects(service, tmp_path, {"breaker": f"some texts {BREAK}"})
    assert set(rejected) == {"breaker"}
    assert ask(service, "another text").status_code == 200
    assert len(deaths()) == 2


@pytest.mark.long
def test_an_engine_that_hangs_is_replaced(service, deaths):
    with ThreadPoolExecutor(5) as pool:
        hanging = pool.submit(ask, service, SLEEP)
        until(deaths, 60, "the pass hangs")
        others = [pool.submit(ask, service, f"another {number}") for number in range(4)]
        assert {other.result().status_code for other in others} == {200}
        check_refused(hanging.result())
    assert len(deaths()) == 2
