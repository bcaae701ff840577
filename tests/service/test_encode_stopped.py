"""A corpus job that is stopped: it ends, says how to go on, and leaves nothing running."""

from __future__ import annotations

import subprocess
import threading

import pytest

from cluster.corpus.execution import Run
from cluster.corpus.job import encode_corpus
from cluster.corpus.settings import Settings
from testing.docstrings import all_docstrings
from testing.encoding import command
from testing.shared_service import join
from testing.waiting import until

MODEL = "slow"
PART_BYTES = 10_000


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    """One file of many parts, more than is encoded during a test."""
    path = tmp_path_factory.mktemp("corpus") / "long.txt"
    path.write_text("\n".join(" ".join(text.split()[:200]) for text in all_docstrings()[:5_000]))
    return path


def parts(out):
    return len(list(out.glob("*.parquet")))


def test_a_stopped_job_says_how_to_go_on(service, long_corpus, tmp_path):
    out = tmp_path / "out"
    line, environment = command(
        service, long_corpus, out, "--model", MODEL, "--truncate", "--part-mb", PART_BYTES / 1e6
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True) as job:
        until(lambda: parts(out), 60, "a first part")
        job.terminate()
        _, errors = job.communicate(timeout=30)
    assert job.returncode == 130, errors
    assert "parts are written and kept. Run the same command again" in errors
    assert "Traceback" not in errors
    assert "SIGTERM" not in errors  # no remaining thread starts a Ray of its own


def test_an_interrupted_cell_of_a_notebook_stops_the_job(service, long_corpus, tmp_path):
    out = tmp_path / "out"

    def interrupt(_):
        if parts(out):
            raise KeyboardInterrupt

    join(service)
    settings = Settings(str(long_corpus), str(out), MODEL, truncate=True, part_mb=PART_BYTES / 1e6)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(settings, Run(service.ray_address, watch=interrupt))
    for job in [thread for thread in threading.enumerate() if "_consume" in thread.name]:
        job.join(30)
        assert not job.is_alive()
    assert 0 < parts(out) < long_corpus.stat().st_size / PART_BYTES / 2
