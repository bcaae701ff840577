"""A corpus job of which something is killed, run again: every id once, no part torn or written twice.

Killing the whole cluster is in `tests/clusters/test_service_ends.py`. Random moments:

    EMBEDFLEET_KILL_ROUNDS=20 EMBEDFLEET_KILL_SEED=7 pytest -m long tests/chaos/test_encode_killed.py -s
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

from testing.encoding import encode, run_command
from testing.running import RunningService, running_service
from tests.chaos.conftest import STEADY
from tests.support.killing import (
    arguments,
    check_complete,
    outcome,
    stamps,
    start,
    strike,
    wait_for_parts,
)

MODEL = STEADY
ROUNDS = int(os.environ.get("EMBEDFLEET_KILL_ROUNDS", "8"))
SEED = int(os.environ.get("EMBEDFLEET_KILL_SEED", str(random.randrange(1_000_000))))
COSTS_A_RETRY = ("data worker", "encoder replica")
VICTIMS = ("driver", *COSTS_A_RETRY, "cluster")
PARTS = 4
APP = {"import_path": "testing.hashing:build"}


@pytest.mark.parametrize(
    "victim",
    ["driver", *(pytest.param(victim, marks=pytest.mark.long) for victim in COSTS_A_RETRY)],
)
def test_every_row_once_whatever_is_killed(steady_service, corpus, tmp_path, victim):
    service = steady_service
    (path, ids), out = corpus, tmp_path / "out"
    job = start(service, *arguments(path, out, MODEL))
    wait_for_parts(job, out, PARTS)
    strike(service, victim, job)
    words = outcome(job)
    if victim in COSTS_A_RETRY:
        assert job.returncode == 0, words
        check_complete(out, ids, {})
        return
    before = stamps(out)
    encode(service, path, out, MODEL, id_column="id", part_mb=0.02)
    assert before
    check_complete(out, ids, before)


class Fleet:
    """A service of its own, which can be started again."""

    def __init__(self, model: Mapping[str, str]) -> None:
        self._stack = ExitStack()
        self._model = model
        self.start()

    def start(self) -> None:
        self.service: RunningService = self._stack.enter_context(
            running_service([self._model], [MODEL], app=APP)
        )

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def fleet(steady) -> Iterator[Fleet]:
    fleet = Fleet(steady)
    yield fleet
    fleet.stop()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_every_row_once_whatever_is_killed_at_a_random_moment(fleet, corpus, tmp_path, number):
    (path, ids), out = corpus, tmp_path / "out"
    chance = random.Random(f"{SEED}-{number}")
    victim, parts = VICTIMS[number % len(VICTIMS)], chance.randrange(0, 12)
    args = arguments(path, out, MODEL)
    job = start(fleet.service, *args)
    wait_for_parts(job, out, parts)
    time.sleep(chance.random() * (0.5 if parts else 6.0))
    strike(fleet.service, victim, job)
    words = outcome(job)
    print(f"seed {SEED} round {number}: {victim} after {parts} parts: {job.returncode} {words}")
    if victim in COSTS_A_RETRY:
        assert job.returncode == 0, (SEED, number, victim, words)
    if victim == "cluster":
        fleet.start()
    before = stamps(out)
    again = run_command(fleet.service, *args)
    assert again.returncode == 0, (SEED, number, victim, again.stderr)
    check_complete(out, ids, before)
