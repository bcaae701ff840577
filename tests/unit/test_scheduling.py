"""The engine's thread is not interrupted by the others of its process."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, threading
from deployments.embedding.scheduling import engine_goes_first

stop = threading.Event()
engine, other = (threading.Thread(target=stop.wait, daemon=True) for _ in range(2))
engine.start(), other.start()
for _ in range(2):  # the second time, as when a model is loaded again by a batch thread
    engine_goes_first(engine.native_id)
    print(*(os.sched_getscheduler(t.native_id) for t in (engine, other, threading.main_thread())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a policy of Linux")
def test_all_other_threads_are_batch_threads():
    found = subprocess.check_output([sys.executable, "-c", SCRIPT], text=True, timeout=60)
    assert found.split() == ["0", "3", "3"] * 2
