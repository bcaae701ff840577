"""Who gets the processor first: an engine before its event loop, online texts before offline ones.

Only Linux has a priority for each thread.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
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


def can_give_way() -> bool:
    """Whether a thread may come after the others of its process here: tried, since sandboxes differ."""

    def try_it() -> bool:
        give_way({threading.get_native_id()})
        return has_given_way()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(try_it).result()


def give_way(threads: Collection[int] | None = None) -> None:
    """Lets these threads, by default all of this process, compute mostly where others leave the
    processor free: beside one other that wants a core, they get a tenth of it. What they start, too.
    """
    if sys.platform != "linux":  # elsewhere a thread's id may be another process's
        return
    for thread in thread_ids() if threads is None else threads:
        with suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICER
            os.setpriority(os.PRIO_PROCESS, thread, min(19, niceness))


def has_given_way() -> bool:
    """Whether the calling thread comes after its process's first one."""
    if sys.platform != "linux":
        return False
    own, first = (os.getpriority(os.PRIO_PROCESS, thread) for thread in (0, os.getpid()))
    return own > first


def thread_ids() -> set[int]:
    """Returns the system's ids of this process's threads; none where there is no /proc."""
    tasks = Path("/proc/self/task")
    return {int(entry.name) for entry in tasks.iterdir()} if tasks.is_dir() else set()
