"""A corpus job, something that is killed while it runs, and what must be true after the next run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet as pq

from testing.docstrings import all_docstrings
from testing.encoding import check_exactly_once, command, rejects_of
from testing.processes import descendants, kill, marked, replicas
from testing.running import RunningService
from testing.waiting import until

TEXTS = 1_000
# a driver waits a minute for a dead cluster, in case its head comes back
GIVES_UP_SOON = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}


def save_corpus(path: Path) -> set[str]:
    """Writes texts of which every hundredth is null, and returns their ids."""
    texts = [None if i % 100 == 7 else t for i, t in enumerate(all_docstrings()[:TEXTS])]
    ids = [f"d{i}" for i in range(TEXTS)]
    pq.write_table(pa.table({"id": ids, "text": texts}), path)
    return set(ids)


def arguments(corpus: Path, out: Path, model: str) -> tuple[object, ...]:
    """Returns the arguments of a job that writes a few dozen parts."""
    return (corpus, out, "--model", model, "--id-column", "id", "--part-mb", 0.02)


def start(service: RunningService, *args: object, name: str = "encode") -> subprocess.Popen[str]:
    """Starts ``embedfleet encode``, or ``name``."""
    line, environment = command(service, *args, name=name)
    pipe = subprocess.PIPE
    return subprocess.Popen(line, env=environment | GIVES_UP_SOON, stderr=pipe, text=True)


def wait_for_parts(job: subprocess.Popen[str], out: Path, count: int) -> None:
    """Waits until the job has committed this many parts."""

    def committed() -> bool:
        assert job.poll() is None, job.communicate()
        return len(list(out.glob("*.parquet"))) >= count

    until(committed, 120, f"{count} parts")


def strike(service: RunningService, victim: str, job: subprocess.Popen[str]) -> None:
    """Kills the victim."""
    root = service.process.pid
    if victim == "driver":
        job.kill()
    elif victim == "data worker":
        kill(until(lambda: marked(root, "MapWorker"), 60))  # it may not have started yet
    elif victim == "encoder replica":
        kill(until(lambda: replicas(service, "encoder-"), 60))
    else:
        kill(descendants(root))


def outcome(job: subprocess.Popen[str]) -> str:
    """Waits for the driver; kills one that still waits for a dead cluster, as a user would."""
    try:
        return job.communicate(timeout=120)[1].strip()[-200:]
    except subprocess.TimeoutExpired:
        job.kill()
        return "hung; " + job.communicate()[1].strip()[-200:]


def stamps(out: Path) -> dict[Path, int]:
    """Returns when each part was written."""
    return {file: file.stat().st_mtime_ns for file in out.glob("*.parquet")}


def check_complete(out: Path, ids: set[str], written_before: dict[Path, int]) -> None:
    """Asserts that each id is there once, and that no part has been written twice."""
    now = stamps(out)
    assert {file: now[file] for file in written_before} == written_before
    check_exactly_once(out, ids)
    assert list(rejects_of(out).values()).count("null") == TEXTS // 100
