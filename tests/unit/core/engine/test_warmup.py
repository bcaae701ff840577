"""The first passes of an engine."""

from __future__ import annotations

import time

import numpy as np
import pytest

from deployments.core.engine.warmup import sample, warm_up, warm_up_alone
from tests.support.fake_engine import FakeEngine


@pytest.mark.parametrize(("texts", "tokens"), [(1, 8), (5, 3)])
def test_a_sample_has_ids_of_the_vocabulary(texts, tokens):
    batch = sample(FakeEngine(vocabulary=7), texts, tokens)
    assert batch.lengths.tolist() == [tokens] * texts
    assert batch.ids.dtype == np.int32
    assert 0 <= batch.ids.min() <= batch.ids.max() < 7


class Clocked(FakeEngine):
    """Each pass takes half a second of a clock that stands still otherwise."""

    now = 0.0
    shapes: list[list[int]]

    def forward(self, batch):
        self.now += 0.5
        self.shapes = [*getattr(self, "shapes", []), batch.lengths.tolist()]
        return super().forward(batch)


def test_each_size_that_is_slow_at_first_is_made_once(monkeypatch):
    engine = Clocked()
    monkeypatch.setattr(time, "perf_counter", lambda: engine.now)
    warm_up(engine, 1_024, 96)
    assert engine.shapes == [[16], [96, 96, 8], [96] * 10 + [64]]


def test_warming_up_ends_after_some_seconds(monkeypatch):
    engine = Clocked()
    engine.slow_at_first = lambda most: [16] * most
    monkeypatch.setattr(time, "perf_counter", lambda: engine.now)
    warm_up(engine, 100, 512)
    assert 5.0 < engine.now < 7.0


def test_one_text_of_each_size_that_is_slow_at_first_and_none_is_longer_than_the_model_s():
    engine = Clocked()
    warm_up_alone(engine, 512)
    engine.slow_at_first = lambda most: [16, 128]  # rounded up
    warm_up_alone(engine, 100)
    assert engine.shapes == [[16], [200], [16], [100]]
