"""The descendants of a process, from ``/proc``, and which of them are a service's replicas."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from testing.running import RunningService


def descendants(root: int) -> dict[int, str]:
    """Returns the command line of each process below ``root``, ``root`` included, by pid."""
    parents = {pid: parent for entry in Path("/proc").iterdir() for pid, parent in _parent(entry)}

    def below(pid: int) -> bool:
        while pid not in (root, 0, 1):
            pid = parents.get(pid, 0)
        return pid == root

    return {pid: _command_line(pid) for pid in parents if below(pid)}


def _parent(entry: Path) -> Iterator[tuple[int, int]]:
    """Yields a process and its parent, or nothing if the entry is no process or it has ended."""
    with suppress(OSError):
        if entry.name.isdigit():
            state = (entry / "stat").read_text().rpartition(")")[2].split()
            yield int(entry.name), int(state[1])


def _command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").strip()
    return ""


def marked(root: int, mark: str) -> list[int]:
    """Returns the processes below ``root`` whose command lines contain ``mark``."""
    return sorted(pid for pid, line in descendants(root).items() if mark in line)


def replicas(service: RunningService, deployment: str = "") -> list[int]:
    """Returns the processes of replicas whose deployment's name begins with ``deployment``."""
    return marked(service.process.pid, f"ServeReplica:embedfleet:{deployment}")


def kill(pids: Iterable[int]) -> None:
    """Sends SIGKILL to each process that still exists."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def memory_mib(pid: int) -> float:
    """Returns a process's proportional set size; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
