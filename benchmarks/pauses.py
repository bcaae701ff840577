"""Whether the machine itself stood still: shared ones do, for a tenth of a second now and then."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

_SLEEP_S = 0.005
_PAUSE_S = 0.05


@contextmanager
def watched() -> Iterator[list[float]]:
    """Yields a list that holds, after the block, each pause of the machine in seconds.

    A pause is when a process that sleeps for 5 ms, and does nothing else, wakes 50 ms late.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    watcher = context.Process(target=_watch, args=(there,), daemon=True)
    watcher.start()
    here.recv()
    found: list[float] = []
    try:
        yield found
    finally:
        here.send(None)
        found += here.recv() if here.poll(10) else []
        watcher.join(10)


def told(pauses: list[float]) -> str:
    """Returns the pauses in words."""
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
