"""Sparse vectors go through lanes and passes as dense ones do, each to its own text."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.core.batch import TokenBatch
from deployments.core.lane import Lane
from deployments.core.sparse import SparseVectors
from tests.support.batching import PATIENCE_S, working
from tests.support.fake_engine import FakeEngine

POISON, OVERFLOWS, WIDTH = 666, 777, 1_000


class Counts(FakeEngine):
    """Gives a text the number of times that it has each id."""

    def forward(self, batch):
        super().forward(batch)
        rows = [np.bincount(batch.text(row), minlength=WIDTH) for row in range(len(batch))]
        vectors = np.float32(rows)
        vectors[vectors[:, OVERFLOWS] > 0, OVERFLOWS] = np.inf
        return SparseVectors.from_dense(vectors)


def encoded(batcher, *texts, lane=Lane.ONLINE):
    return batcher.submit(TokenBatch.from_lists(texts), lane, 1e6)


def entries(vectors):
    return [
        dict(zip(row.indices.tolist(), row.values.tolist(), strict=True)) for row in vectors.rows()
    ]


@pytest.mark.parametrize("lane", Lane)
def test_each_text_gets_its_own_vector(lane):
    with working(Counts(WIDTH), budget=8) as batcher:
        calls = [
            encoded(batcher, [1, 2, 1], [9], [4, 4, 4, 4], [5, 6], lane=lane),
            encoded(batcher, [3], lane=lane),
        ]
        first, second = (call.result(PATIENCE_S).vectors for call in calls)
    assert entries(first) == [{1: 2, 2: 1}, {9: 1}, {4: 4}, {5: 1, 6: 1}]
    assert (entries(second), second.shape) == ([{3: 1}], (1, WIDTH))


def test_texts_that_fail_or_overflow_do_so_alone():
    with working(Counts(WIDTH, poison=POISON), budget=64) as batcher:
        answer = encoded(batcher, [1], [POISON], [2], [OVERFLOWS], [3]).result(PATIENCE_S)
    assert {row: error.code for row, error in answer.errors.items()} == {
        1: "text_failed",
        3: "text_failed",
    }
    assert entries(answer.vectors) == [{1: 1}, {}, {2: 1}, {}, {3: 1}]


def test_texts_that_do_not_fit_in_memory_together_are_split():
    engine = Counts(WIDTH, room=3)
    with working(engine, budget=64) as batcher:
        answer = encoded(batcher, [1], [2], [3], [4], [5]).result(PATIENCE_S)
    assert entries(answer.vectors) == [{n: 1} for n in range(1, 6)]
    assert engine.freed


def test_if_every_text_fails_no_zeros_are_sent():
    with working(Counts(WIDTH, poison=POISON), budget=64) as batcher:
        answer = encoded(batcher, [POISON], [POISON]).result(PATIENCE_S)
    assert answer.vectors.shape == (2, 0)
    assert len(answer.errors) == 2
