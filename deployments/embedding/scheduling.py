"""Who gets the processor first, on Linux: an engine before its event loop, live traffic before a job."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_NICER = 10


def engine_goes_first(engine_threads: Collection[int]) -> None:
    """Lets no other thread of this process take the engine's core when it wakes up.

    ``engine_threads`` are the threads' ids in the system. The others become batch threads, which get
    the next free core; each call that arrives would else interrupt the forward pass.
    """
    for thread in thread_ids():
        policy = os.SCHED_OTHER if thread in engine_threads else os.SCHED_BATCH
        with suppress(OSError):  # the thread has ended, or a sandbox forbids it
            os.sched_setscheduler(thread, policy, os.sched_param(0))


def give_way() -> None:
    """Lets this process compute mostly where others leave the processor free."""
    for thread in thread_ids():
        with suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICER
            os.setpriority(os.PRIO_PROCESS, thread, min(19, niceness))


def thread_ids() -> set[int]:
    """Returns the system's ids of this process's threads; none where there is no /proc."""
    tasks = Path("/proc/self/task")
    return {int(entry.name) for entry in tasks.iterdir()} if tasks.is_dir() else set()
