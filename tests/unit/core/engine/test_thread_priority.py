"""An engine goes before its process, live traffic before a job."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ENGINE = """
import os, threading
from deployments.core.engine.cpu.priority import engine_goes_first

stop = threading.Event()
engine, other = (threading.Thread(target=stop.wait, daemon=True) for _ in range(2))
engine.start(), other.start()
for _ in range(2):  # the second time, as when a model is loaded again by a batch thread
    engine_goes_first({engine.native_id})
    print(*(os.sched_getscheduler(t.native_id) for t in (engine, other, threading.main_thread())))
"""
JOB = """
import os, threading
from deployments.core.engine.cpu.priority import give_way

other = threading.Thread(target=threading.Event().wait, daemon=True)
other.start()
before = os.getpriority(os.PRIO_PROCESS, 0)
give_way()
later = threading.Thread(target=threading.Event().wait, daemon=True)
later.start()
for thread in (threading.main_thread(), other, later):
    print(os.getpriority(os.PRIO_PROCESS, thread.native_id) - before)
"""
ONE_THREAD = """
import os, threading
from deployments.core.engine.cpu.priority import give_way, has_given_way

def urgent():
    print(has_given_way(), os.getpriority(os.PRIO_PROCESS, 0) - before)

def patient():
    give_way({threading.get_native_id()})
    urgent()

before = os.getpriority(os.PRIO_PROCESS, 0)
for run in (patient, urgent):
    thread = threading.Thread(target=run)
    thread.start(), thread.join()
"""
OWN = os.getpriority(os.PRIO_PROCESS, 0)
LESS = str(min(19, OWN + 10) - OWN)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a policy of Linux")


def printed(script: str) -> list[str]:
    actual = subprocess.check_output([sys.executable, "-c", script], text=True, timeout=60)
    return actual.split()


def test_all_other_threads_are_batch_threads():
    assert printed(ENGINE) == ["0", "3", "3"] * 2


def test_whether_a_thread_can_give_way_is_tried():
    module = "deployments.core.engine.cpu.priority"
    script = f"from {module} import can_give_way; print(can_give_way())"
    assert printed(script) == ["True"]
    last = "import os; os.setpriority(os.PRIO_PROCESS, 0, 19)"  # whatever this process has itself
    assert printed(f"{last}; {script}") == ["False"]  # there is nothing behind it


def test_one_thread_gives_way_alone():
    assert printed(ONE_THREAD) == ["True", LESS, "False", "0"]


def test_a_job_gives_way_with_all_its_threads():
    assert printed(JOB) == [LESS] * 3
