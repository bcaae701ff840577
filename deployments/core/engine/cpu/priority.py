"""Thread priorities: the engine runs before its event loop, and online texts before offline ones.

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
    """Keeps other threads of this process from taking the engine's core when they wake up.

    ``engine_threads`` are the system's thread ids. All others become batch threads, which wait for the
    next free core; otherwise, each call that arrives would interrupt the forward pass.
    """
    for thread in thread_ids():
        policy = os.SCHED_OTHER if thread in engine_threads else os.SCHED_BATCH
        with suppress(OSError):  # the thread has ended, or a sandbox forbids it
            os.sched_setscheduler(thread, policy, os.sched_param(0))


def can_give_way() -> bool:
    """Whether a thread can lower its priority here; it is tried, since sandboxes differ."""

    def try_it() -> bool:
        give_way({threading.get_native_id()})
        return has_given_way()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(try_it).result()


def give_way(threads: Collection[int] | None = None) -> None:
    """Lowers the priority of these threads, by default all of this process, and of those they start.

    Beside a thread that wants the same core, they get a tenth of it.
    """
    if sys.platform != "linux":  # elsewhere a thread's id may be another process's
        return
    for thread in thread_ids() if threads is None else threads:
        with suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICER
            os.setpriority(os.PRIO_PROCESS, thread, min(19, niceness))


def has_given_way() -> bool:
    """Whether the calling thread has a lower priority than its process's first one."""
    if sys.platform != "linux":
        return False
    own, first = (os.getpriority(os.PRIO_PROCESS, thread) for thread in (0, os.getpid()))
    return own > first


def thread_ids() -> set[int]:
    """Returns the system's ids of this process's threads; none where there is no /proc."""
    tasks = Path("/proc/self/task")
    return {int(entry.name) for entry in tasks.iterdir()} if tasks.is_dir() else set()
