"""A corpus job on a cluster whose cores are all taken: its workers come last, but they come."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

from testing.encoding import command, encode

HOLD = """
import ray
ray.init()
free = ray.available_resources()["CPU"]

@ray.remote(num_cpus=free)
class Holder:
    def free(self):
        return ray.available_resources().get("CPU", 0.0)

holder = Holder.remote()
print(free, ray.get(holder.free.remote()), flush=True)
input()
"""


@contextmanager
def all_cores_taken(service):
    _, environment = command(service)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        before, after = map(float, holder.stdout.readline().split())
        assert before > 0.25 > after
        yield
    finally:
        holder.communicate("\n", timeout=60)


def test_a_job_where_others_hold_all_cores(service, tmp_path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one\ntwo\n")
    with all_cores_taken(service):
        run = encode(service, corpus, tmp_path / "out", "--model", "small")
    assert "2 rows in, 2 encoded, 0 rejected" in run.stdout, run.stderr
