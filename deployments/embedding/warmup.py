"""The first passes of an engine: they pay for lazy initialisation, and they tell how fast it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from deployments.embedding.batch import TokenBatch

if TYPE_CHECKING:
    from deployments.embedding.engine import Engine


def sample(engine: Engine, texts: int, tokens: int) -> TokenBatch:
    """Returns random ids, ``texts`` rows of ``tokens`` each."""
    ids = np.random.default_rng(0).integers(0, engine.vocabulary, texts * tokens, np.int32)
    return TokenBatch(ids, np.full(texts, tokens, np.int32))


def measure_tokens_per_s(engine: Engine, token_budget: int, max_tokens: int) -> float:
    """Warms the engine up and returns its speed in a full micro-batch of passage-like texts."""
    tokens = min(128, max_tokens, token_budget)
    batch = sample(engine, max(1, token_budget // tokens), tokens)
    for warm in (sample(engine, 1, min(16, max_tokens)), batch):
        engine.forward(warm)
    started = time.perf_counter()
    engine.forward(batch)
    return batch.tokens / max(time.perf_counter() - started, 1e-6)
