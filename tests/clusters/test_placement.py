"""A cluster of nodes with a logical GPU each: which node gets which replica, what a dead node costs, and
a node that is added when a model needs it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from testing.hashing import save_model
from testing.nodes import growing_cluster, placed, routers
from testing.running import running_service
from testing.waiting import until
from tests.support.reporting import report

PATIENCE_S = 90.0
PLACED = ["wide", "second"]
RARE = {"rare": 1}

pytestmark = pytest.mark.long  # a Ray of four nodes


@pytest.fixture(scope="module")
def cluster():
    """A head, three nodes with a GPU, and an autoscaler that may add one with a rare resource."""
    with growing_cluster({"CPU": 2, **RARE}, *[{"num_gpus": 1}] * 3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def service(cluster, tmp_path_factory):
    folder = str(save_model(tmp_path_factory.mktemp("models") / "tiny"))
    on_gpu = {"path": folder, "device": "cpu", "num_gpus": 1}
    rare = {"path": folder, "resources": RARE, "replicas": {"min_replicas": 0, "max_replicas": 1}}
    models = [
        {"name": "wide", **on_gpu, "replicas": 2},
        {"name": "second", **on_gpu},
        {"name": "exotic", **on_gpu, "accelerator_type": "H200"},
        {"name": "rare", **rare},
    ]
    address = {"RAY_ADDRESS": cluster.address}
    app = {"import_path": "testing.hashing:build"}
    with running_service(models, PLACED, "python", address, app) as running:
        yield running


def cards(service):
    with service.client() as http:
        return {card["id"]: card for card in http.get("/v1/models").json()["data"]}


def ask(service, model):
    with service.client() as http:
        return http.post("/v1/embeddings", json={"model": model, "input": "hello"})


def test_no_two_replicas_share_a_gpu(cluster, service):
    replicas = placed(cluster)
    assert sorted(name for name, _ in replicas) == ["second", "wide", "wide"]
    assert len({node for _, node in replicas}) == 3
    assert cluster.head_node.node_id not in {node for _, node in replicas}
    assert [len(cards(service)[name]["gpu_ids"]) for name in PLACED] == [1, 1]


def test_a_gpu_that_the_cluster_lacks_is_named_and_the_others_serve(service):
    card = cards(service)["exotic"]
    assert card["state"] == "unavailable"
    assert "accelerator_type:H200" in card["reason"]
    refused = ask(service, "exotic")
    assert refused.status_code == 503
    assert "accelerator_type:H200" in refused.json()["error"]["message"]
    assert {ask(service, name).status_code for name in PLACED} == {200}


def test_a_job_brings_the_node_that_its_model_needs(cluster, service, tmp_path):
    assert cards(service)["rare"]["state"] == "unavailable"
    refused = ask(service, "rare")
    assert refused.status_code == 503
    assert "rare" in refused.json()["error"]["message"]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one\ntwo\n")
    words = ["encode", corpus, tmp_path / "out", "--model", "rare", "--address", cluster.address]
    line = [sys.executable, "-m", "cluster.cli", *map(str, words)]
    job = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)
    assert "2 rows in, 2 encoded, 0 rejected" in job.stdout, job.stderr
    until(lambda: ask(service, "rare").status_code == 200, PATIENCE_S)


def test_a_node_that_dies_loses_no_request(cluster, service, record_property):
    # the dead node must not hold the only router
    has_wide = {node for name, node in placed(cluster) if name == "wide"} - routers(cluster)
    victim = next(node for node in cluster.worker_nodes if node.node_id in has_wide)
    statuses, errors, seconds, stop = [], [], [], threading.Event()

    def caller():
        while not stop.is_set():
            started = time.monotonic()
            answer = ask(service, "wide")
            seconds.append(time.monotonic() - started)
            statuses.append(answer.status_code)
            if answer.status_code != 200:
                errors.append(answer.text)

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    before = len(statuses)
    cluster.remove_node(victim, allow_graceful=False)
    try:
        until(lambda: len(statuses) >= before + 100, PATIENCE_S, "answers go on")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    report(record_property, "a node with a replica killed, the slowest answer", max(seconds))
    assert (set(statuses), errors) == ({200}, [])
