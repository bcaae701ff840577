"""Killed at random moments, run again: every id exactly once, no file torn, and none written twice.

EMBEDFLEET_KILL_ROUNDS=20 EMBEDFLEET_KILL_SEED=7 pytest tests/chaos/test_encode_killed.py -s
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from testing.docstrings import all_docstrings
from testing.encoding import check_exactly_once, command, encode, rejects_of
from testing.processes import descendants, kill, marked, replicas
from testing.running import RunningService, running_service
from testing.waiting import until

MODEL = "all-MiniLM-L6-v2"
ROUNDS = int(os.environ.get("EMBEDFLEET_KILL_ROUNDS", "4"))
SEED = int(os.environ.get("EMBEDFLEET_KILL_SEED", str(random.randrange(1_000_000))))
VICTIMS = ("driver", "data worker", "encoder replica", "cluster")
COSTS_A_RETRY = ("data worker", "encoder replica")
TEXTS = 1_500
# a driver waits a minute for a cluster that has died, in case its head comes back
SOON_GIVES_UP = {"RAY_gcs_rpc_server_reconnect_timeout_s": "10"}


class Fleet:
    """A service that can be started anew."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        models = [{"name": MODEL}]
        self.service: RunningService = self._stack.enter_context(running_service(models, [MODEL]))

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    fleet.stop()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, set[str]]:
    """Texts of which every hundredth cannot be encoded."""
    texts = [None if i % 100 == 7 else t for i, t in enumerate(all_docstrings()[:TEXTS])]
    ids = [f"d{i}" for i in range(len(texts))]
    path = tmp_path_factory.mktemp("corpus") / "a.parquet"
    pq.write_table(pa.table({"id": ids, "text": texts}), path)
    return path, set(ids)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_exactly_once_whatever_is_killed(fleet, corpus, tmp_path, number):
    path, ids = corpus
    chance = random.Random(f"{SEED}-{number}")
    victim = VICTIMS[number % len(VICTIMS)]
    args = (path, tmp_path / "out", "--model", MODEL, "--id-column", "id", "--part-mb", 0.02)
    line, environment = command(fleet.service, *args)
    job = subprocess.Popen(line, env=environment | SOON_GIVES_UP, stderr=subprocess.PIPE, text=True)
    moment = wait_for_a_moment(tmp_path / "out", chance, job)
    strike(fleet, victim, job)
    words = outcome(job)
    print(
        f"seed {SEED} round {number}: {victim} after {moment} parts: exit {job.returncode} {words}"
    )
    if victim in COSTS_A_RETRY:
        assert job.returncode == 0, (SEED, number, victim, words)
    if victim == "cluster":
        fleet.start()
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    again = encode(fleet.service, *args)
    assert again.returncode == 0, (SEED, number, victim, again.stderr)
    assert all(file.stat().st_mtime_ns == stamp for file, stamp in done.items())
    check_exactly_once(tmp_path / "out", ids)
    assert list(rejects_of(tmp_path / "out").values()).count("null") == TEXTS // 100


def wait_for_a_moment(out: Path, chance: random.Random, job: subprocess.Popen[str]) -> int:
    """Waits until a random number of parts is there, and a little more; returns that number."""
    parts = chance.randrange(0, 12)

    def there() -> bool:
        assert job.poll() is None, job.communicate()
        return len(list(out.glob("*.parquet"))) >= parts

    until(there, 120, f"{parts} parts")
    time.sleep(chance.random() * (0.5 if parts else 6.0))
    return parts


def strike(fleet: Fleet, victim: str, job: subprocess.Popen[str]) -> None:
    root = fleet.service.process.pid
    if victim == "driver":
        job.kill()
    elif victim == "data worker":
        kill(until(lambda: marked(root, "MapWorker"), 60))  # at the very start there is none yet
    elif victim == "encoder replica":
        kill(until(lambda: replicas(fleet.service, "encoder-"), 60))
    else:
        kill(descendants(root))


def outcome(job: subprocess.Popen[str]) -> str:
    """Waits for the driver; one that still waits for a dead cluster is killed, as a user would."""
    try:
        return job.communicate(timeout=120)[1].strip()[-200:]
    except subprocess.TimeoutExpired:
        job.kill()
        return "hung; " + job.communicate()[1].strip()[-200:]
