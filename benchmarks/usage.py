"""Processor time of a server: all of its processes, and what of it is Ray's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testing.processes import descendants

_TICKS = os.sysconf("SC_CLK_TCK")
# what a request passes through; everything else that Ray starts is there without requests too
_ON_THE_WAY = ("haproxy", "ServeReplica", "ProxyActor")


@dataclass(frozen=True)
class Usage:
    """Seconds of processor time by process, and which processes are Ray's own, if there is a Ray."""

    seconds: Mapping[int, float]
    rays: frozenset[int] | None

    @classmethod
    def of(cls, root: int | None) -> Usage:
        """Reads the times of ``root`` and of all processes below it; None: they are not at hand."""
        lines = descendants(root) if root else {}
        own = {p for p, line in lines.items() if not any(word in line for word in _ON_THE_WAY)}
        has_ray = any("raylet" in line for line in lines.values())
        return cls({p: _seconds(p) for p in lines}, frozenset(own) if has_ray else None)

    def since(self, before: Usage) -> tuple[float | None, float | None]:
        """Returns the seconds spent since then, in all and by Ray's own processes; None: not known."""
        spent = {pid: s - before.seconds.get(pid, 0.0) for pid, s in self.seconds.items()}
        rays = self.rays
        of_ray = None if rays is None else sum(s for pid, s in spent.items() if pid in rays)
        return sum(spent.values()) if spent else None, of_ray


def _seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
