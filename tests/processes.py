"""The processes below one of ours, from ``ps`` and ``/proc``."""

from __future__ import annotations

import subprocess
from pathlib import Path


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


def memory_mib(pid: int) -> float:
    """Returns a process's proportional set size; 0 for one that has gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
