"""A model that may have no replica, in a cluster that has no node for one until it is asked."""

from __future__ import annotations

import subprocess
import sys

from testing.nodes import growing_cluster
from testing.running import running_service
from testing.waiting import until
from tests.support.tiny_models import save_bert

PATIENCE_S = 120.0


def test_a_call_brings_the_node_that_its_model_needs_and_a_job_waits_for_it(tmp_path):
    folder = str(save_bert(tmp_path / "tiny"))
    once = {"min_replicas": 0, "max_replicas": 1}
    rare = {"name": "rare", "path": folder, "device": "cpu", "num_gpus": 1, "replicas": once}
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one\ntwo\n")
    with growing_cluster({"CPU": 2, "GPU": 1}) as cluster:
        address = {"RAY_ADDRESS": cluster.address}
        models = [{"name": "always", "path": folder}, rare]
        with running_service(models, ["always"], "python", address) as service:
            assert service.states()["rare"] == "unavailable"
            refused = ask(service)
            assert refused.status_code == 503
            assert "no node of the cluster has GPU" in refused.json()["error"]["message"]
            job = encode(corpus, tmp_path / "out", "--model", "rare", "--address", cluster.address)
            assert "2 rows in, 2 encoded, 0 rejected" in job.stdout, job.stderr
            until(lambda: ask(service).status_code == 200, PATIENCE_S)


def encode(*args):
    line = [sys.executable, "-m", "cluster.cli", "encode", *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, timeout=240, check=False)


def ask(service):
    with service.client() as http:
        return http.post("/v1/embeddings", json={"model": "rare", "input": "hello"})
