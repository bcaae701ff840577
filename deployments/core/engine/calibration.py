"""Measures how many tokens a pass should have on this machine, and how fast it then is."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.core.engine.device_errors import is_out_of_memory
from deployments.core.engine.warmup import passages, run_at_once

if TYPE_CHECKING:
    from deployments.core.batch import TokenBatch
    from deployments.core.engine.device import PassSizes
    from deployments.core.engine.interface import Engine

log = logging.getLogger(__name__)
_TRIES = 8
# what a stream spends between two passes, choosing texts and handing out vectors (benchmarks/log)
_BETWEEN_PASSES_S = 0.0017
_MEASURE_S = 10.0
_TOLERANCE = 2.0  # a size may seem to take this many times too long: one measurement may be slow


@dataclass(frozen=True)
class Calibration:
    """The token budget of a pass, and the tokens per second of full ones."""

    token_budget: int
    tokens_per_s: float


def calibrate(engine: Engine, sizes: PassSizes, max_tokens: int, streams: int = 1) -> Calibration:
    """Tries growing passes of passage-like texts and returns the best of ``sizes``.

    ``streams`` passes run at once. Stops when the device's memory is full, or after 10 s. Raises what
    the engine raises if even the first pass fails.
    """
    ends = time.perf_counter() + _MEASURE_S
    budgets = sizes.budgets if sizes.enough else _short(engine, sizes, max_tokens, streams)
    work = {budget: [passages(engine, budget, max_tokens)] * streams for budget in budgets}
    fitting = _fitting(engine, work, ends)
    # measure the sizes in turn, on equal work, and keep the best of each: whatever else runs on the
    # machine then slows all of them, and a short run gains nothing from luck
    passes = {budget: fitting[-1] // budget for budget in fitting}
    speeds = dict.fromkeys(fitting, 0.0)
    for budget in fitting * _TRIES:
        if speeds[budget] and time.perf_counter() > ends:
            break
        speed = _speed(engine, work[budget], passes[budget])
        speeds[budget] = max(speeds[budget], speed)
    budget = best_budget(speeds, streams, sizes)
    return Calibration(budget, speeds[budget])


def _short(engine: Engine, sizes: PassSizes, max_tokens: int, streams: int) -> tuple[int, ...]:
    """Returns the first size, which is as fast as any, and those that may take little time.

    Trying all of them would cost a slow CPU seconds at every start.
    """
    first, *larger = sizes.budgets
    batches = [passages(engine, first, max_tokens)] * streams
    run_at_once(engine, batches)  # the first pass also allocates and compiles
    speed = _speed(engine, batches, 1)
    most_s = _TOLERANCE * sizes.short_s
    return (first, *(budget for budget in larger if streams * budget / speed <= most_s))


def best_budget(speeds: Mapping[int, float], streams: int, sizes: PassSizes) -> int:
    """Returns the best budget, given the tokens per second of each with ``streams`` passes at once."""
    least = sizes.enough * max(speeds.values())
    enough = [budget for budget, speed in speeds.items() if speed >= least]
    short = [budget for budget in enough if streams * budget / speeds[budget] <= sizes.short_s]
    return max([min(enough), *short])


def _fitting(engine: Engine, work: Mapping[int, Sequence[TokenBatch]], ends: float) -> list[int]:
    """Runs a first pass of each size; returns the sizes that fit in the memory and the time."""
    fitting: list[int] = []
    for budget, batches in work.items():
        try:
            run_at_once(engine, batches)
        except Exception as error:
            if not fitting or not is_out_of_memory(error):
                raise
            log.info("a pass of %d tokens does not fit in the device's memory", budget)
            break
        fitting.append(budget)
        if time.perf_counter() > ends:
            break
    return fitting


def _speed(engine: Engine, batches: Sequence[TokenBatch], times: int) -> float:
    """Returns the tokens per second of ``times`` passes of each batch."""
    started = time.perf_counter()
    run_at_once(engine, batches, times)
    seconds = time.perf_counter() - started + times * _BETWEEN_PASSES_S
    return times * sum(batch.tokens for batch in batches) / seconds
