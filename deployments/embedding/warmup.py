"""The first passes of an engine: they pay for lazy initialisation, and they tell how fast it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from deployments.embedding.batch import TokenBatch

if TYPE_CHECKING:
    from deployments.embedding.engine import Engine

_PASSAGE = 128  # tokens
_WARM_UP_S = 5.0


def sample(engine: Engine, texts: int, tokens: int) -> TokenBatch:
    """Returns random ids, ``texts`` rows of ``tokens`` each."""
    ids = np.random.default_rng(0).integers(0, engine.vocabulary, texts * tokens, np.int32)
    return TokenBatch(ids, np.full(texts, tokens, np.int32))


def warm_up(engine: Engine, token_budget: int, max_tokens: int) -> None:
    """Makes the passes that are slow at first, the smallest first, for some seconds at most."""
    ends = time.perf_counter() + _WARM_UP_S
    for tokens in engine.slow_at_first(token_budget):
        if time.perf_counter() > ends:
            return
        engine.forward(_of_size(engine, tokens, min(_PASSAGE, max_tokens)))


def _of_size(engine: Engine, tokens: int, most: int) -> TokenBatch:
    full = sample(engine, tokens // most, most)
    return (
        TokenBatch.concatenate([full, sample(engine, 1, rest)]) if (rest := tokens % most) else full
    )


def measure_tokens_per_s(engine: Engine, token_budget: int, max_tokens: int) -> float:
    """Returns the engine's speed in a full micro-batch of passage-like texts, after two passes."""
    tokens = min(_PASSAGE, max_tokens, token_budget)
    batch = sample(engine, max(1, token_budget // tokens), tokens)
    for warm in (sample(engine, 1, min(16, max_tokens)), batch):
        engine.forward(warm)
    started = time.perf_counter()
    engine.forward(batch)
    return batch.tokens / max(time.perf_counter() - started, 1e-6)
