"""Encodes any number of texts with an engine, for tests and benchmarks that need no `Batcher`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deployments.core.batch import TokenBatch, Vectors
from deployments.core.engine.interface import Engine
from deployments.core.sparse import SparseVectors


def encode_all(engine: Engine, batch: TokenBatch, token_budget: int, streams: int = 1) -> Vectors:
    """Returns float32 ``(texts, dimension)``, pooled and not normalised, in the batch's order.

    Packs the texts by ``token_budget`` and runs ``streams`` forward passes at once.
    """
    vectors = np.empty((len(batch), engine.dimension), np.float32)

    def run(rows: list[int]) -> None:
        computed = engine.forward(batch.select(rows))
        assert not isinstance(computed, SparseVectors)
        vectors[rows] = computed

    with ThreadPoolExecutor(streams) as pool:
        list(pool.map(run, pack(batch.lengths.tolist(), token_budget, engine.pads)))
    return vectors


def pack(lengths: Sequence[int], token_budget: int, pads: bool = True) -> list[list[int]]:
    """Returns row numbers grouped into micro-batches, longest texts first.

    A micro-batch costs longest × rows if the engine ``pads``, else the sum of its tokens. That stays
    within ``token_budget`` unless a single text exceeds it.
    """
    batches: list[list[int]] = []
    cost = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        # with padding, the first row is the longest and sets the price of every other row
        price = lengths[batches[-1][0]] if pads and batches else lengths[row]
        if batches and cost + price <= token_budget:
            batches[-1].append(row)
            cost += price
        else:
            batches.append([row])
            cost = lengths[row]
    return batches
