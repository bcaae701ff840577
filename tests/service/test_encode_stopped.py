"""A corpus job that is stopped: it ends, says how it goes on, and leaves nothing running."""

from __future__ import annotations

import subprocess
import sys

import pytest

from testing.docstrings import all_docstrings
from testing.encoding import command
from testing.waiting import until

MODEL = "all-MiniLM-L6-v2"
PART_BYTES = 10_000


@pytest.fixture(scope="module")
def long_corpus(tmp_path_factory):
    """More than is encoded while a test looks on, in one file and many parts."""
    path = tmp_path_factory.mktemp("corpus") / "long.txt"
    path.write_text("\n".join(" ".join(text.split()[:200]) for text in all_docstrings()[:5_000]))
    return path


def parts(out):
    return len(list(out.glob("*.parquet")))


def test_a_stopped_job_says_how_it_goes_on(service, long_corpus, tmp_path):
    out = tmp_path / "out"
    line, environment = command(
        service, long_corpus, out, "--model", MODEL, "--truncate", "--part-mb", PART_BYTES / 1e6
    )
    pipe = subprocess.PIPE
    with subprocess.Popen(line, env=environment, stdout=pipe, stderr=pipe, text=True) as job:
        until(lambda: parts(out), 60, "a first part")
        job.terminate()
        _, said = job.communicate(timeout=30)
    assert job.returncode == 130
    assert "embedfleet: stopped; the same command does what is missing" in said
    assert "Traceback" not in said
    assert "SIGTERM" not in said  # nor does a thread that is left start a Ray of its own


INTERRUPTED = """
import sys, threading
from pathlib import Path
from cluster.corpus.execution import Run
from cluster.corpus.job import encode_corpus
from cluster.corpus.settings import Settings

source, output = sys.argv[1:]

def interrupt(snapshot):
    if list(Path(output).glob("*.parquet")):
        raise KeyboardInterrupt

try:
    encode_corpus(
        Settings(source, output, "all-MiniLM-L6-v2", truncate=True, part_mb=0.01), Run(watch=interrupt)
    )
except KeyboardInterrupt:
    job, = [thread for thread in threading.enumerate() if "_consume" in thread.name]
    job.join(30)
    print("goes on" if job.is_alive() else "stopped")
"""


def test_an_interrupted_cell_of_a_notebook_stops_the_job(service, long_corpus, tmp_path):
    _, environment = command(service)
    out = tmp_path / "out"
    line = [sys.executable, "-c", INTERRUPTED, str(long_corpus), str(out)]
    run = subprocess.run(
        line, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout == "stopped\n", run.stderr
    assert 0 < parts(out) < long_corpus.stat().st_size / PART_BYTES / 2
