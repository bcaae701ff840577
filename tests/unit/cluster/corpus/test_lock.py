"""Two jobs on one output: the second is refused, and a job that was killed does not lock anyone out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
from pyarrow import fs as pafs

from cluster.corpus.errors import JobError
from cluster.corpus.write import lock as module
from cluster.corpus.write.lock import Holder, JobLock

LOCAL = pafs.LocalFileSystem()
HOLD = """
import sys, time
from pyarrow import fs
from cluster.corpus.write.lock import JobLock
with JobLock(fs.LocalFileSystem(), sys.argv[1], "out").held(print):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, "_POLL_S", 0.02)
    monkeypatch.setattr(module, "_PAUSE_S", 0.02)


def lock(folder) -> JobLock:
    return JobLock(LOCAL, str(folder), "out")


@contextmanager
def another_process(folder):
    line = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_job_is_told_who_holds_the_output(tmp_path):
    with another_process(tmp_path) as process:
        for refuse in (lock(tmp_path).refuse_a_second_job, lambda: enter(lock(tmp_path))):
            with pytest.raises(JobError, match=f"process {process.pid} of .* on ") as refusal:
                refuse()
            assert "out" in str(refusal.value)
    assert len(list((tmp_path / "locks").iterdir())) == 1  # the second job has left none


def enter(held: JobLock, say=print) -> None:
    with held.held(say):
        pass


def test_a_job_that_was_killed_locks_nobody_out(tmp_path):
    with another_process(tmp_path) as process:
        process.kill()
        process.wait()
    started = time.monotonic()
    lock(tmp_path).refuse_a_second_job()
    enter(lock(tmp_path))
    assert time.monotonic() - started < 2
    assert not list((tmp_path / "locks").iterdir())


def write(folder, holder: Holder) -> None:
    (folder / "locks").mkdir(exist_ok=True)
    (folder / "locks" / "other.json").write_text(json.dumps(asdict(holder)))


ELSEWHERE = replace(Holder.this_process(), machine="another", host="node-7", pid=7)


def test_a_number_that_another_process_has_now_is_not_the_holder(tmp_path):
    write(tmp_path, replace(Holder.this_process(), born="1"))
    enter(lock(tmp_path))


def test_a_job_on_another_machine_that_is_alive_is_named(tmp_path):
    done = threading.Event()

    def beat():
        while not done.wait(0.05):
            write(tmp_path, ELSEWHERE)

    write(tmp_path, ELSEWHERE)
    beating = threading.Thread(target=beat)
    beating.start()
    said: list[str] = []
    try:
        with pytest.raises(JobError, match=r"process 7 of .* on node-7"):
            enter(lock(tmp_path), said.append)
    finally:
        done.set()
        beating.join()


def test_a_job_on_another_machine_that_shows_no_sign_of_life_is_waited_out(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STALE_S", 0.3)
    write(tmp_path, ELSEWHERE)
    said: list[str] = []
    started = time.monotonic()
    enter(lock(tmp_path), said.append)
    assert 0.2 < time.monotonic() - started < 5
    assert len(said) == 1


def test_a_lock_that_is_just_being_written_is_not_taken_for_dead(tmp_path, monkeypatch):
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "other.json").touch()
    monkeypatch.setattr(module, "_STALE_S", 0.3)
    started = time.monotonic()
    enter(lock(tmp_path))
    assert time.monotonic() - started > 0.2


def test_of_jobs_that_start_together_one_goes_on_at_most(tmp_path):
    """Whatever the turns, never two at once; a threads' race stands for that of two machines."""
    inside, most, entered = [], [], []

    def attempt(_):
        try:
            with lock(tmp_path).held(print):
                inside.append(1)
                most.append(len(inside))
                entered.append(1)
                time.sleep(0.2)
                inside.pop()
        except JobError:
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attempt, range(8)))
    assert max(most) == 1
    assert entered


def test_a_job_notices_that_its_lock_was_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BEAT_S", 0.02)
    own = lock(tmp_path)
    with own.held(print):
        own.check()
        (file,) = (tmp_path / "locks").iterdir()
        before = file.stat().st_mtime_ns
        wait_until(lambda: file.stat().st_mtime_ns > before)
        file.unlink()
        wait_until(lambda: own._is_lost)
        with pytest.raises(JobError, match="another job has taken over out"):
            own.check()
    assert not list((tmp_path / "locks").iterdir())


def wait_until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_output_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(JobError, match="out cannot be written to"):
        enter(JobLock(LOCAL, str(tmp_path / "file"), "out"))


def test_a_process_is_known_by_its_start():
    own = Holder.this_process()
    assert own.pid == os.getpid()
    assert own.is_alive is True
    assert replace(own, born="1").is_alive is False
    assert ELSEWHERE.is_alive is None
