"""Services that end: one gets SIGTERM while requests are in progress, another is killed during a job.

The second is started by `embedfleet serve --model`, without a config file.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import sleep

import httpx
import pytest
from sentence_transformers import SentenceTransformer

from testing.docstrings import all_docstrings
from testing.encoding import run_command
from testing.hashing import save_model
from testing.models.tiny import save_xlm_roberta
from testing.running import free_port, serving
from testing.shared_service import leave
from testing.waiting import until
from tests.support.documents import code_blocks
from tests.support.killing import (
    arguments,
    check_complete,
    outcome,
    stamps,
    start,
    strike,
    wait_for_parts,
)
from tests.support.tolerance import FLOAT32, worst_cosine

MODEL = "all-MiniLM-L6-v2"
SLOW = "slow"
TEXTS = ["plants turn light into sugar", "Paris is in France"]
STOPS_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_xlm_roberta(tmp_path_factory.mktemp("models") / "our-model")


@contextmanager
def serving_without_config(folder):
    """Runs a service with two models: a local folder, and a hub id that is in the catalog."""
    port = free_port()
    (documented,) = [block for block in code_blocks("bash") if "--model ./our-model" in block]
    _, _, *models = shlex.split(documented.replace("./our-model", str(folder)))
    with serving([*models, "--port", str(port)], port, ["our-model", MODEL]) as service:
        yield service


@pytest.fixture(scope="module")
def without_config(folder):
    with serving_without_config(folder) as service:
        yield service


def test_requests_in_progress_are_answered_after_sigterm(shared_service, tmp_path):
    folder = save_model(tmp_path / SLOW, tokens_per_s=16_000)
    service = shared_service.serve(
        [{"name": SLOW, "path": str(folder)}],
        [SLOW],
        {"import_path": "testing.hashing:build"},
        limits={"online_max_wait_s": 60},
    )
    leave()  # Ray ends a process that is connected to it when it ends itself
    texts = [text for text in all_docstrings() if len(text) > 400][:48]
    several_calls = body_of(texts * 6)  # some calls start while others are answered
    bodies = [*[body_of(texts)] * 4, several_calls]

    def ask(body: dict[str, object]) -> httpx.Response:
        with service.client() as http:
            return http.post("/v1/embeddings", json=body)

    def ready() -> int:
        with service.client() as http:
            return http.get("/ready").status_code

    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(ask, body) for body in bodies]
        sleep(0.4)  # all have arrived, few are answered
        service.process.send_signal(signal.SIGTERM)
        until(lambda: ready() == httpx.codes.SERVICE_UNAVAILABLE, 5)
        late = ask(body_of(["too late"]))
        assert late.status_code == 503
        assert "retry-after" in late.headers
        assert not all(call.done() for call in calls)
        answers = [call.result() for call in calls]
    assert [answer.status_code for answer in answers] == [200] * 5, answers
    assert statuses_until_it_has_ended(ready) <= {503}  # a 404 would say that the URL is wrong
    assert service.process.wait(STOPS_WITHIN_S) == 0
    assert "Traceback" not in service.log.read_text()
    shared_service.close()


def statuses_until_it_has_ended(status: Callable[[], int]) -> set[int]:
    statuses = set()
    with suppress(httpx.TransportError):
        while True:
            statuses.add(status())
    return statuses


def body_of(texts: list[str]) -> dict[str, object]:
    return {"model": SLOW, "input": texts, "truncate": True, "encoding_format": "base64"}


@pytest.mark.long
def test_serve_without_a_config_file(without_config, folder):
    with without_config.client() as http:
        answer = http.post("/v1/embeddings", json={"model": "our-model", "input": TEXTS}).json()
        dtype = http.get("/v1/models/our-model").json()["dtype"]
    log = without_config.log.read_text()
    vectors = [item["embedding"] for item in answer["data"]]
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert worst_cosine(vectors, expected) >= (0.9995 if dtype == "bfloat16" else FLOAT32)
    assert f"path: {folder.resolve()}" in log  # the config that it stands for


@pytest.mark.long
def test_a_job_whose_cluster_dies_is_finished_by_the_next_run(
    without_config, folder, corpus, tmp_path
):
    (path, ids), out = corpus, tmp_path / "out"
    job = start(without_config, *arguments(path, out, MODEL))
    wait_for_parts(job, out, 2)
    strike(without_config, "cluster", job)
    assert outcome(job) or job.returncode
    before = stamps(out)
    assert before
    with serving_without_config(folder) as service:
        again = run_command(service, *arguments(path, out, MODEL))
    assert again.returncode == 0, again.stderr
    check_complete(out, ids, before)
