"""Corpus jobs beside other work on a cluster: with a node's environment, and with no core free."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager

import ray

from cluster.service.environment import path_environment
from testing.encoding import command, counts, encode
from testing.shared_service import join
from tests.support.holding import Holder

MODEL = "hashed"


def test_a_job_inherits_serves_fast_path(service, tmp_path):
    corpus = tmp_path / "a.txt"
    corpus.write_text("one\ntwo\n")
    line, environment = command(service, corpus, tmp_path / "out", "--model", MODEL)
    fast = {**environment, **path_environment("haproxy")[0]}
    run = subprocess.run(line, env=fast, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert "2 rows in, 2 encoded" in run.stdout
    assert "ERROR" not in run.stderr


@contextmanager
def all_cores_taken(service):
    join(service)
    before = ray.available_resources()["CPU"]
    holder = ray.remote(num_cpus=before)(Holder).remote()
    after = ray.get(holder.free.remote())
    assert before > 0.25 > after
    yield
    ray.kill(holder)


def test_a_job_where_others_hold_all_cores(service, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one\ntwo\n")
    with all_cores_taken(service):
        summary = encode(service, corpus, tmp_path / "out", MODEL)
    assert counts(summary) == (2, 2, 0)
