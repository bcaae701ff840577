"""Measures the tokens a second of an engine, for texts of several lengths."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.core.engine.warmup import run_at_once, sample

if TYPE_CHECKING:
    from deployments.core.batch import TokenBatch
    from deployments.core.engine.interface import Engine

_LENGTHS = (16, 128, 512)  # tokens: a query, a passage, a page
_ROUND_S = 0.25  # shorter rounds would measure the threads that they start


@dataclass(frozen=True)
class Speed:
    """The tokens a second of texts that all have ``length`` tokens."""

    length: int
    tokens_per_s: float

    @property
    def texts_per_s(self) -> float:
        """Texts a second."""
        return self.tokens_per_s / self.length


def lengths(max_tokens: int) -> tuple[int, ...]:
    """Returns the lengths to measure: a query's, a passage's and a page's, up to the model's limit."""
    within = tuple(length for length in _LENGTHS if length <= max_tokens)
    return within if max_tokens >= _LENGTHS[-1] else tuple(sorted({*within, max_tokens}))


def measure_speeds(
    engine: Engine, max_tokens: int, token_budget: int, streams: int, seconds: float
) -> Iterator[Speed]:
    """Yields the speed of each length, shortest first; each takes about ``seconds``.

    ``streams`` passes run at once, each of as many texts as fit into ``token_budget`` tokens.
    """
    for length in lengths(max_tokens):
        batch = sample(engine, max(1, token_budget // length), length)
        yield Speed(length, _tokens_per_s(engine, batch, streams, seconds))


def _tokens_per_s(engine: Engine, batch: TokenBatch, streams: int, seconds: float) -> float:
    """Returns the median of rounds, after a first pass that also allocates and compiles."""
    batches = [batch] * streams
    run_at_once(engine, batches)
    ends = time.perf_counter() + seconds
    times = max(1, round(_ROUND_S / _seconds(engine, batches, 1)))
    rates = [times * streams * batch.tokens / _seconds(engine, batches, times)]
    while time.perf_counter() < ends:
        rates.append(times * streams * batch.tokens / _seconds(engine, batches, times))
    return statistics.median(rates)


def _seconds(engine: Engine, batches: list[TokenBatch], times: int) -> float:
    started = time.perf_counter()
    run_at_once(engine, batches, times)
    return time.perf_counter() - started
