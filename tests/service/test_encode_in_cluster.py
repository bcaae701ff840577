"""Corpus jobs beside other work on a cluster, which leaves no core free."""

from __future__ import annotations

from contextlib import contextmanager

import ray

from testing.encoding import counts, encode
from testing.shared_service import join
from tests.support.holding import Holder

MODEL = "hashed"


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
