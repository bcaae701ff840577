"""The processes below one of ours, from ``ps`` and ``/proc``; which are a service's replicas."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.running import RunningService


def descendants(root: int) -> dict[int, str]:
    """Returns the command line of each process below ``root``, ``root`` included, by pid."""
    listing = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listing.stdout.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}
    lines = {int(pid): "".join(args) for pid, _, *args in rows}

    def below(pid: int) -> bool:
        while pid not in (root, 0, 1):
            pid = parents.get(pid, 0)
        return pid == root

    return {pid: line for pid, line in lines.items() if below(pid)}


def marked(root: int, mark: str) -> list[int]:
    """Returns the processes below ``root`` whose command lines hold ``mark``."""
    return sorted(pid for pid, line in descendants(root).items() if mark in line)


def replicas(service: RunningService, deployment: str = "") -> list[int]:
    """Returns the processes of a service's replicas; of deployments whose names begin like this."""
    return marked(service.process.pid, f"ServeReplica:embedfleet:{deployment}")


def kill(pids: Iterable[int]) -> None:
    """SIGKILL to each that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def memory_mib(pid: int) -> float:
    """Returns a process's proportional set size; 0 for one that has gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
