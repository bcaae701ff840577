"""Four nodes with a GPU each (logical ones): who runs where, and what a lost node costs."""

from __future__ import annotations

import threading
import time

import pytest

from testing.nodes import cluster_of, placed, routers
from testing.running import running_service
from testing.waiting import until
from tests.support.tiny_models import save_bert

PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def cluster():
    with cluster_of(*[{"num_gpus": 1}] * 4) as found:
        yield found


@pytest.fixture(scope="module")
def service(cluster, tmp_path_factory):
    folder = str(save_bert(tmp_path_factory.mktemp("models") / "tiny"))
    pinned = {"path": folder, "device": "cpu", "num_gpus": 1}
    models = [
        {"name": "wide", **pinned, "replicas": 2},
        {"name": "second", **pinned},
        {"name": "third", **pinned},
        {"name": "exotic", **pinned, "accelerator_type": "H200"},
    ]
    ready, address = ["wide", "second", "third"], {"RAY_ADDRESS": cluster.address}
    with running_service(models, ready, "python", address) as running:
        yield running


def cards(service):
    with service.client() as http:
        return {card["id"]: card for card in http.get("/v1/models").json()["data"]}


def ask(service, model):
    with service.client() as http:
        return http.post("/v1/embeddings", json={"model": model, "input": "hello"})


def test_never_two_replicas_on_one_gpu(cluster, service):
    found = placed(cluster)
    assert sorted(name for name, _ in found) == ["second", "third", "wide", "wide"]
    assert len({node for _, node in found}) == 4
    assert cluster.head_node.node_id not in {node for _, node in found}
    assert [len(cards(service)[name]["gpu_ids"]) for name in ("wide", "second", "third")] == [1] * 3


def test_a_gpu_that_the_cluster_lacks_is_told_and_the_others_serve(service):
    card = cards(service)["exotic"]
    assert card["state"] == "unavailable"
    assert "no node of the cluster has accelerator_type:H200" in card["reason"]
    refused = ask(service, "exotic")
    assert refused.status_code == 503
    assert "accelerator_type:H200" in refused.json()["error"]["message"]
    assert {ask(service, name).status_code for name in ("wide", "second", "third")} == {200}


def test_a_node_that_dies_takes_no_request_along(cluster, service):
    # of two; what the only router's death costs is another question
    has_wide = {node for name, node in placed(cluster) if name == "wide"} - routers(cluster)
    victim = next(node for node in cluster.worker_nodes if node.node_id in has_wide)
    statuses, errors, stop = [], [], threading.Event()

    def caller():
        while not stop.is_set():
            answer = ask(service, "wide")
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
    assert (set(statuses), errors) == ({200}, [])
