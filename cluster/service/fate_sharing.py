"""Processes that end together, by Linux's ``prctl``; elsewhere these functions do nothing.

Imports nothing slow: `embedfleet-haproxy` needs it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

# <linux/prctl.h>
_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36
_POLL_S = 0.05


def signal_when_parent_ends(number: signal.Signals) -> None:
    """Sends this process a signal once its parent has ended, which may be at once."""
    parent = os.getppid()
    _prctl(_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Makes descendants whose own parents have ended children of this process, for `end_children`."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def reap_orphans(others: Collection[int]) -> None:
    """Removes children that have ended from the process table, except ``others``.

    Ray's workers take a raylet that has ended for alive until somebody does.
    """
    for pid in children() - set(others):
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def end_children(within_s: float, others: Collection[int] = ()) -> set[int]:
    """Kills the children of this process except ``others``, and theirs once they have become orphans.

    Returns the pids of those that are left after ``within_s``.
    """
    deadline = time.monotonic() + within_s
    while (left := children() - set(others)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(_POLL_S)
    return left


def children() -> set[int]:
    """Returns the pids of this process's children; none where there is no ``/proc``."""
    found: set[int] = set()
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            found.update(map(int, (task / "children").read_text().split()))
    return found


def _prctl(option: int, value: int) -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
