"""The machine under a benchmark: what it is, and whether it stood still meanwhile."""

from __future__ import annotations

import multiprocessing
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from deployments.core.engine.cpu.cores import usable_cores

_SLEEP_S = 0.005
_PAUSE_S = 0.05


def machine() -> str:
    """Returns one line: processor, cores, GPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {usable_cores()} cores, {_gpu()}"


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


@contextmanager
def pauses_watched() -> Iterator[list[float]]:
    """Yields a list that holds, after the block, each pause of the machine in seconds.

    Shared machines stand still for a tenth of a second now and then, which is not the service's
    doing. It counts as a pause if a process that only sleeps, 5 ms at a time, wakes 50 ms late.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    watcher = context.Process(target=_watch, args=(theirs,), daemon=True)
    watcher.start()
    ours.recv()
    pauses: list[float] = []
    try:
        yield pauses
    finally:
        ours.send(None)
        pauses += ours.recv() if ours.poll(10) else []
        watcher.join(10)


def describe_pauses(pauses: list[float]) -> str:
    """Returns, for example, ``3, longest 120 ms``."""
    return f"{len(pauses)}, longest {max(pauses, default=0.0) * 1e3:.0f} ms"


def _watch(pipe: Connection) -> None:
    pauses = list[float]()
    pipe.send(None)
    while not pipe.poll():
        started = time.perf_counter()
        time.sleep(_SLEEP_S)
        late = time.perf_counter() - started - _SLEEP_S
        if late > _PAUSE_S:
            pauses.append(late)
    pipe.send(pauses)
