"""How many threads compute a forward pass on a CPU.

Passes that run side by side do best with one thread each: none waits for another. One text that is
alone would leave the others' threads idle: it has as many as were measured to make it faster.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deployments.core.engine.cpu.priority import has_given_way

T = TypeVar("T")

log = logging.getLogger(__name__)
SIZES = (16, 64, 256, 1_024)  # tokens
_TRIES = 5
_LONG_S = 0.25
# OpenMP's threads spin for about a millisecond after a pass, on cores that a router may want: a text of
# 12 tokens that a quiet core gains 1 to 2 ms for takes longer in the service (benchmarks/log/2026-11.md)
_WORTH_S = 0.003

# the seconds that one text of so many tokens takes with so many threads
Seconds = Callable[[int, int], float]


class PassThreads:
    """Counts the passes that run, and gives each its threads. Thread-safe."""

    def __init__(self, each: int) -> None:
        """``each`` pass has so many, and one text alone no more until they are lent to it."""
        self._each = each
        self._team: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._running = 0
        self._alone = {0: each}  # from so many tokens on

    def lend(self, most: int, max_tokens: int, seconds: Seconds) -> bool:
        """Measures how many of ``most`` threads one text alone should have, by its tokens.

        What takes long is not measured: it has all. Returns whether any text has more than before.
        """
        # OpenMP lets the threads of a second team sleep at each operator, so all is computed by one
        self._team = team = ThreadPoolExecutor(1, "team")
        counts = _doubled(self._each, most)
        alone: dict[int, int] = {}
        for size in [size for size in SIZES if size <= max_tokens] or [max_tokens]:
            is_long = team.submit(seconds, size, self._each).result() > _LONG_S
            found = most if is_long else team.submit(_enough, size, counts, seconds).result()
            alone[size if alone else 0] = found
            if is_long:  # so are longer ones
                break
        self._alone = alone
        log.info("threads for one text alone, from so many tokens on: %s", alone)
        return max(alone.values()) > self._each

    def run(self, texts: int, tokens: int, compute: Callable[[int], T]) -> T:
        """Returns what ``compute`` returns, given the number of threads of this pass."""
        with self._lock:
            self._running += 1
            is_alone = texts == self._running == 1 and not has_given_way()
        try:
            count = self._for_one(tokens) if is_alone else self._each
            if self._team is None or count == self._each:
                return compute(count)
            return self._team.submit(compute, count).result()
        finally:
            with self._lock:
                self._running -= 1

    def _for_one(self, tokens: int) -> int:
        return self._alone[max(size for size in self._alone if size <= tokens)]


def _doubled(least: int, most: int) -> list[int]:
    counts = [least]
    while counts[-1] < most:
        counts.append(min(2 * counts[-1], most))
    return counts


def _enough(size: int, counts: Sequence[int], seconds: Seconds) -> int:
    """Returns the number of threads after which the next gains too little."""
    times = _least(size, counts, seconds)
    chosen, *more = counts
    for count in more:
        if times[chosen] - times[count] < _WORTH_S:
            break
        chosen = count
    return chosen


def _least(size: int, counts: Sequence[int], seconds: Seconds) -> dict[int, float]:
    """Returns the least time of each count; in turn, since a busy moment slows all of them."""
    for count in counts:
        seconds(size, count)  # what is made at first
    best = dict.fromkeys(counts, float("inf"))
    for count in [*counts] * _TRIES:
        best[count] = min(best[count], seconds(size, count))
    return best
