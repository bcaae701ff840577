"""The token budget of a pass is measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from deployments.core.engine.calibration import best_budget, calibrate
from deployments.core.engine.device import PassSizes, pass_sizes
from tests.support.fake_engine import FakeEngine

SIZES = PassSizes((512, 1_024, 2_048))
SHORT = PassSizes((), enough=0.9, short_s=0.06)


class Clocked(FakeEngine):
    """Passes take the seconds that ``cost`` says of their tokens, the first of a size twice that."""

    now = 0.0
    cost: Callable[[int], float] = staticmethod(lambda tokens: tokens / 1_000)
    seen: frozenset[int] = frozenset()

    def forward(self, batch):
        self.now += self.cost(batch.tokens) * (1 if batch.tokens in self.seen else 2)
        self.seen |= {batch.tokens}
        return super().forward(batch)


@pytest.fixture
def engine(monkeypatch):
    engine = Clocked()
    monkeypatch.setattr(time, "perf_counter", lambda: engine.now)
    return engine


def test_the_smallest_that_is_nearly_the_fastest(engine):
    engine.cost = lambda tokens: {512: 0.30, 1_024: 0.50, 2_048: 0.99}[tokens]
    pace = calibrate(engine, SIZES, max_tokens=256)
    assert (pace.token_budget, pace.tokens_per_s) == (1_024, pytest.approx(2_048, rel=0.01))


def test_one_that_leaves_the_cache_is_not_taken(engine):
    engine.cost = lambda tokens: {512: 0.1, 1_024: 0.3, 2_048: 0.9}[tokens]
    assert calibrate(engine, SIZES, max_tokens=256).token_budget == 512


def test_what_starts_beside_it_slows_no_single_size(engine):
    engine.cost = lambda tokens: tokens / 10_000 * (3 if engine.now < 1.2 else 1)
    pace = calibrate(engine, SIZES, max_tokens=256)
    assert (pace.token_budget, pace.tokens_per_s) == (512, pytest.approx(10_000, rel=0.05))


def test_small_passes_that_are_fast_cost_more_in_between(engine):
    engine.cost = lambda tokens: tokens / 100_000
    assert calibrate(engine, SIZES, max_tokens=256).token_budget == 2_048


@pytest.mark.parametrize(
    ("tokens_per_s", "streams", "budget"),
    [
        (20_000, 1, 1_024),
        (30_000, 1, 1_024),
        (15_000, 1, 512),
        (40_000, 2, 1_024),
        (20_000, 2, 512),
    ],
)
def test_a_pass_that_is_short_anyway_may_be_larger(tokens_per_s, streams, budget):
    costs = {512: 0.97, 1_024: 1.0, 2_048: 0.88}  # of the speed of the fastest
    speeds = {size: share * tokens_per_s for size, share in costs.items()}
    assert best_budget(speeds, streams, SHORT) == budget


def test_a_short_pass_that_is_slow_is_not_taken():
    assert best_budget({512: 100_000.0, 1_024: 89_000.0}, 1, SHORT) == 512


@pytest.mark.parametrize(("small", "budget"), [(95_000.0, 512), (94_000.0, 1_024)])
def test_where_no_pass_is_short_the_smallest_that_is_fast_enough_is_taken(small, budget):
    assert best_budget({512: small, 1_024: 100_000.0}, 1, SIZES) == budget


@pytest.mark.parametrize("speed", [500.0, 5_000.0, 8_000.0])
def test_a_slow_cpu_takes_short_passes_and_tries_no_others(engine, speed):
    """Measured: 256 tokens have 0.95 of the speed of 1,024, and a quarter of their wait."""
    engine.cost = lambda tokens: tokens / speed
    pace = calibrate(engine, pass_sizes(torch.device("cpu")), max_tokens=256)
    assert (pace.token_budget, pace.tokens_per_s) == (256, pytest.approx(speed, rel=0.06))
    assert engine.seen == {256}
    assert engine.now < 13 * 256 / speed


@pytest.mark.parametrize(("speed", "budget"), [(10_000.0, 256), (16_000.0, 256), (18_000.0, 1_024)])
def test_a_cpu_that_may_be_fast_enough_for_large_passes_tries_them(engine, speed, budget):
    engine.cost = lambda tokens: tokens / speed
    pace = calibrate(engine, pass_sizes(torch.device("cpu")), max_tokens=256)
    assert (pace.token_budget, engine.seen) == (budget, {256, 1_024})


def test_the_device_s_memory_ends_it(engine):
    engine.room = 128 * 8
    engine.cost = lambda tokens: 0.1
    assert calibrate(engine, SIZES, max_tokens=128).token_budget == 1_024


def test_a_device_that_has_no_room_at_all_is_an_error(engine):
    engine.room = 8
    with pytest.raises(MemoryError):
        calibrate(engine, SIZES, max_tokens=128)


def test_an_engine_that_breaks_is_an_error(engine):
    engine.poison, engine.vocabulary = 0, 1
    with pytest.raises(ValueError, match="poisoned"):
        calibrate(engine, SIZES, max_tokens=128)


def test_a_slow_engine_is_not_tried_for_long(engine):
    engine.cost = lambda tokens: tokens / 40
    assert calibrate(engine, SIZES, max_tokens=128).token_budget == 512
    assert engine.now < 40


def test_texts_are_no_longer_than_the_model_takes(engine):
    engine.cost = lambda tokens: 1.0
    pace = calibrate(engine, PassSizes((1_000,)), max_tokens=64)
    assert pace.tokens_per_s == pytest.approx(1_000, rel=0.01)


def test_the_speed_is_that_of_all_passes_at_once():
    together = threading.Barrier(3)

    class Meeting(FakeEngine):
        def forward(self, batch):
            together.wait(10)
            time.sleep(0.02)
            return super().forward(batch)

    pace = calibrate(Meeting(), PassSizes((300,)), max_tokens=100, streams=3)
    assert 300 / 0.02 < pace.tokens_per_s <= 900 / 0.02  # more than one alone can have
