"""How many threads compute a forward pass on a CPU.

Passes that run side by side do best with one thread each: none waits for another. A text that is alone
would leave the others' threads idle, so it gets more if they make it clearly faster. What is measured at
start may be wrong, since the machine may be busy just then: passes that run are measured as well, and
correct it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from deployments.core.engine.cpu.priority import has_given_way

T = TypeVar("T")

log = logging.getLogger(__name__)
# OpenMP's threads spin for about a millisecond after a pass, on cores that a router may want. Shorter
# texts gain 1 to 2 ms on a quiet core and lose up to 30 on a busy one (benchmarks/log/2026-11.md)
_SHORTEST = 64  # tokens
SIZES = (_SHORTEST, 256, 1_024)
_WORTH_S = 0.003
_TRIES = 5
_LONG_S = 0.25
_LOOK_AGAIN = 32  # passes, after which one tries the other number of threads
_WEIGHT = 0.25  # of the newest pass in a moving average

# the seconds that one text of so many tokens takes with so many threads
Seconds = Callable[[int, int], float]


class Alternatives:
    """Two numbers of threads for texts of about one size, and how long each takes. Not thread-safe."""

    def __init__(self, size: int, seconds: dict[int, float]) -> None:
        """``seconds`` is what a text of ``size`` tokens has taken, by the number of threads."""
        self._size = size
        self._seconds = dict(seconds)
        self._few, self._many = min(seconds), max(seconds)
        self._passes = 0

    @property
    def best(self) -> int:
        """The smaller number, unless the larger one saves enough."""
        gain_s = self._seconds[self._few] - self._seconds[self._many]
        return self._many if gain_s >= _WORTH_S else self._few

    def next(self) -> int:
        """Returns the number of threads for the next pass: the best, or now and then the other one."""
        self._passes += 1
        is_turn = self._passes % _LOOK_AGAIN == 0
        return self._few + self._many - self.best if is_turn else self.best

    def learn(self, threads: int, tokens: int, seconds: float) -> None:
        """Corrects what is known by a pass that has run."""
        taken = seconds * self._size / tokens
        self._seconds[threads] += _WEIGHT * (taken - self._seconds[threads])


class PassThreads:
    """Counts the passes that run, and gives each its threads. Thread-safe."""

    def __init__(self, each: int, clock: Callable[[], float] = time.perf_counter) -> None:
        """``each`` pass has so many, and one text alone no more until they are lent to it."""
        self._each = each
        self._clock = clock
        self._team: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._running = 0
        self._alone: dict[int, Alternatives] = {}  # from so many tokens on
        self._all_from: int | None = None  # tokens
        self._most = each

    def lend(self, most: int, max_tokens: int, seconds: Seconds) -> bool:
        """Measures how many of ``most`` threads a text that is alone should have, by its tokens.

        What takes long is not measured: it gets all. Returns whether any text may have more than before.
        """
        if max_tokens < _SHORTEST or most <= self._each:
            return False
        # OpenMP lets the threads of a second team sleep at each operator, so all is computed by one
        self._team = team = ThreadPoolExecutor(1, "team")
        self._most = most
        counts = _doubled(self._each, most)
        for size in [size for size in SIZES if size <= max_tokens]:
            if team.submit(seconds, size, self._each).result() > _LONG_S:  # so do longer ones
                self._all_from = size
                break
            times = team.submit(_least, size, counts, seconds).result()
            many = _enough(counts, times)
            known = {count: times[count] for count in (self._each, max(many, counts[1]))}
            self._alone[size] = Alternatives(size, known)
        found = {size: alternatives.best for size, alternatives in self._alone.items()}
        log.info("threads for one text alone, from so many tokens on: %s", found)
        return True

    def run(self, texts: int, tokens: int, compute: Callable[[int], T]) -> T:
        """Returns what ``compute`` returns, given the number of threads of this pass."""
        with self._lock:
            self._running += 1
            is_alone = texts == self._running == 1 and not has_given_way()
            alternatives = self._alternatives(tokens) if is_alone else None
            count = self._count(tokens, alternatives) if is_alone else self._each
        try:
            started = self._clock()
            result = self._compute(compute, count)
            if alternatives is not None:
                with self._lock:
                    alternatives.learn(count, tokens, self._clock() - started)
            return result
        finally:
            with self._lock:
                self._running -= 1

    def _compute(self, compute: Callable[[int], T], count: int) -> T:
        if self._team is None or count == self._each:
            return compute(count)
        return self._team.submit(compute, count).result()

    def _count(self, tokens: int, alternatives: Alternatives | None) -> int:
        if alternatives is not None:
            return alternatives.next()
        is_long = self._all_from is not None and tokens >= self._all_from
        return self._most if is_long else self._each

    def _alternatives(self, tokens: int) -> Alternatives | None:
        """None for texts that are too short to gain, and for those that take so long that they do."""
        if self._all_from is not None and tokens >= self._all_from:
            return None
        sizes = [size for size in self._alone if size <= tokens]
        return self._alone[max(sizes)] if sizes else None


def _doubled(least: int, most: int) -> list[int]:
    counts = [least]
    while counts[-1] < most:
        counts.append(min(2 * counts[-1], most))
    return counts


def _enough(counts: Sequence[int], times: dict[int, float]) -> int:
    """Returns the number of threads after which the next gains too little."""
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
