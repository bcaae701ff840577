"""Makes an engine's slow first passes before it serves, and samples for measuring it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deployments.core.batch import TokenBatch

if TYPE_CHECKING:
    from deployments.core.engine.interface import Engine

_PASSAGE = 128  # tokens
_WARM_UP_S = 5.0


class HasVocabulary(Protocol):
    """Whatever takes token ids below ``vocabulary``."""

    vocabulary: int


def sample(engine: HasVocabulary, texts: int, tokens: int) -> TokenBatch:
    """Returns random ids, ``texts`` rows of ``tokens`` each."""
    ids = np.random.default_rng(0).integers(0, engine.vocabulary, texts * tokens, np.int32)
    return TokenBatch(ids, np.full(texts, tokens, np.int32))


def warm_up(engine: Engine, token_budget: int, max_tokens: int) -> None:
    """Runs the passes that are slow the first time, smallest first, for at most 5 s."""
    sizes = engine.slow_at_first(token_budget)
    _run_within(_WARM_UP_S, engine, (passages(engine, size, max_tokens) for size in sizes))


def warm_up_alone(engine: Engine, max_tokens: int) -> None:
    """As `warm_up`, for passes of a single text."""
    sizes = engine.slow_at_first(max_tokens)
    _run_within(_WARM_UP_S, engine, (sample(engine, 1, min(n, max_tokens)) for n in sizes))


def _run_within(seconds: float, engine: Engine, batches: Iterable[TokenBatch]) -> None:
    ends = time.perf_counter() + seconds
    for batch in batches:
        if time.perf_counter() > ends:
            return
        engine.forward(batch)


def passages(engine: Engine, tokens: int, max_tokens: int) -> TokenBatch:
    """Returns random texts as long as passages, at most ``max_tokens`` each, ``tokens`` in total."""
    most = min(_PASSAGE, max_tokens)
    full = sample(engine, tokens // most, most)
    return (
        TokenBatch.concatenate([full, sample(engine, 1, rest)]) if (rest := tokens % most) else full
    )


def run_at_once(engine: Engine, batches: Sequence[TokenBatch], times: int = 1) -> None:
    """Runs ``times`` passes of each batch in a row, all batches at once."""

    def run(batch: TokenBatch) -> None:
        for _ in range(times):
            engine.forward(batch)

    with ThreadPoolExecutor(len(batches)) as pool:
        list(pool.map(run, batches))
