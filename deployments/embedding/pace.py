"""How many tokens a pass should have on this machine, and how fast it then is: measured, not guessed."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.embedding.passes import is_out_of_memory
from deployments.embedding.warmup import PASSAGE, of_size, run_at_once

if TYPE_CHECKING:
    from deployments.embedding.batch import TokenBatch
    from deployments.embedding.engine import Engine

log = logging.getLogger(__name__)
_TRIES = 4
_MEASURE_S = 10.0
# a smaller pass that is nearly as fast is better: whoever comes next waits for it
_ENOUGH = 0.95


@dataclass(frozen=True)
class Pace:
    """The token budget of a pass, and the tokens per second of full ones."""

    token_budget: int
    tokens_per_s: float


def find_pace(engine: Engine, budgets: Sequence[int], max_tokens: int, streams: int = 1) -> Pace:
    """Tries growing passes of passage-like texts; takes the smallest that is nearly the fastest.

    ``streams`` passes run at once. Ends where the device's memory ends, or after some seconds.
    Raises what the engine raises when even the first does not work.
    """
    ends = time.perf_counter() + _MEASURE_S
    speeds: dict[int, float] = {}
    most = min(PASSAGE, max_tokens)
    for budget in budgets:
        try:
            speeds[budget] = _speed(engine, [of_size(engine, budget, most)] * streams, ends)
        except Exception as error:
            if not speeds or not is_out_of_memory(error):
                raise
            log.info("a pass of %d tokens does not fit the memory", budget)
            break
        if time.perf_counter() > ends:
            break
    enough = _ENOUGH * max(speeds.values())
    return next(Pace(budget, speed) for budget, speed in speeds.items() if speed >= enough)


def _speed(engine: Engine, batches: Sequence[TokenBatch], ends: float) -> float:
    """Returns tokens per second: the best of some rounds after a first, or of one if time is up.

    The best, since other processes start at the same time.
    """
    run_at_once(engine, batches)
    found = [_timed(engine, batches)]
    while len(found) < _TRIES and time.perf_counter() < ends:
        found.append(_timed(engine, batches))
    return max(found)


def _timed(engine: Engine, batches: Sequence[TokenBatch]) -> float:
    started = time.perf_counter()
    run_at_once(engine, batches)
    tokens = sum(batch.tokens for batch in batches)
    return tokens / max(time.perf_counter() - started, 1e-6)
