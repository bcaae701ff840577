"""A corpus job where jobs run on a cluster: on a node, with the node's environment."""

from __future__ import annotations

import subprocess

from cluster.service.serve import path_environment
from testing.encoding import command


def test_a_job_inherits_serves_fast_path(service, tmp_path):
    corpus = tmp_path / "a.txt"
    corpus.write_text("one\ntwo\n")
    line, environment = command(service, corpus, tmp_path / "out", "--model", "small")
    fast = {**environment, **path_environment("haproxy")[0]}
    run = subprocess.run(line, env=fast, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stderr
    assert "2 rows in, 2 encoded" in run.stdout
    assert "ERROR" not in run.stderr
