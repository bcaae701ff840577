"""Texts that kill a replica, or hang its engine: they are refused, and nobody else is."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from testing.encoding import check_exactly_once, encode, rejects_of
from testing.running import running_service
from testing.waiting import until
from tests.support.breakable import BREAK, POISON, SLEEP
from tests.support.tiny_models import save_bert

MODEL = "tiny"
GOOD = 1_000
HEALTH = {"name": f"encoder-{MODEL}", "health_check_period_s": 1, "health_check_timeout_s": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("models") / MODEL)


@pytest.fixture(scope="module")
def breakable(folder):
    """One router, so that one client meets the text; two replicas."""
    models = [{"name": MODEL, "path": str(folder), "replicas": 2}]
    app = {"import_path": "tests.support.breakable:build", "deployments": [HEALTH]}
    with running_service(models, [MODEL], app=app) as running:
        yield running


@pytest.fixture
def deaths(folder):
    """Returns the deaths of the test so far."""
    file = folder / "deaths.txt"
    file.write_text("")
    return lambda: file.read_text().splitlines()


def ask(running, *texts):
    """Asks again while no replica is left, as clients do that are told when to come back."""
    body = {"model": MODEL, "input": list(texts)}
    deadline = time.monotonic() + 100
    with running.client(timeout_s=100.0) as http:
        while (answer := http.post("/v1/embeddings", json=body)).status_code == 503:
            assert "is starting" in answer.text or "was cold" in answer.text
            assert time.monotonic() < deadline
            time.sleep(float(answer.headers["retry-after"]))
    return answer


def check_refused(response):
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "text_kills_replicas"


def test_one_poisoned_text_among_a_thousand(breakable, deaths):
    texts = [f"text number {number}" for number in range(GOOD)]
    texts.insert(GOOD // 2, POISON)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: ask(breakable, text), texts))
    poisoned = found.pop(GOOD // 2)
    assert [response.text for response in found if response.status_code != 200] == []
    assert all(len(response.json()["data"]) == 1 for response in found)
    check_refused(poisoned)
    assert len(deaths()) == 2
    started = time.monotonic()
    check_refused(ask(breakable, "a good one", POISON))
    assert time.monotonic() - started < 5
    assert len(deaths()) == 2


def rejects(breakable, folder, own):
    """Encodes a corpus of 500 good texts, named by number, and these; returns what was rejected."""
    texts = {str(number): f"sentence number {number}" for number in range(500)} | own
    table = pa.table({"id": list(texts), "text": list(texts.values())})
    pq.write_table(table, folder / "corpus.parquet")
    out = folder / "out"
    run = encode(breakable, folder / "corpus.parquet", out, "--model", MODEL, "--id-column", "id")
    assert run.returncode == 0, run.stderr
    check_exactly_once(out, set(texts))
    return rejects_of(out)


def test_a_corpus_with_a_poisoned_text(breakable, deaths, tmp_path):
    found = rejects(breakable, tmp_path, {"killer": f"a corpus may also {POISON}"})
    assert set(found) == {"killer"}
    assert "two replicas of the model have died on it" in found["killer"]
    assert len(deaths()) == 2


def test_an_engine_that_fails_for_good_is_replaced_and_no_row_is_lost(breakable, deaths, tmp_path):
    found = rejects(breakable, tmp_path, {"breaker": f"some texts {BREAK}"})
    assert set(found) == {"breaker"}
    assert ask(breakable, "another text").status_code == 200
    assert len(deaths()) == 2


def test_an_engine_that_hangs_is_replaced(breakable, deaths):
    with ThreadPoolExecutor(5) as pool:
        hanging = pool.submit(ask, breakable, SLEEP)
        until(deaths, 60, "the pass hangs")
        others = [pool.submit(ask, breakable, f"another {number}") for number in range(4)]
        assert {other.result().status_code for other in others} == {200}
        check_refused(hanging.result())
    assert len(deaths()) == 2
