"""What a batcher measures: times, its own speed, and how often in a row it failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from deployments.core.batching import batcher as batcher_module
from deployments.core.lane import Lane
from tests.support.batching import (
    PATIENCE_S,
    Watcher,
    check_answer,
    error_of,
    hold,
    submit,
    until,
    working,
)
from tests.support.fake_engine import FakeEngine

POISON = 666


@dataclass
class SlowEngine(FakeEngine):
    """Each pass takes ``seconds`` of a clock that stands still otherwise."""

    seconds: float = 2.0
    now: float = 1_000.0
    starts: list[float] = field(default_factory=list)

    def forward(self, batch):
        self.starts.append(self.now)
        self.now += self.seconds
        return super().forward(batch)


@pytest.fixture
def engine(monkeypatch):
    slow = SlowEngine()
    monkeypatch.setattr(batcher_module, "time", SimpleNamespace(monotonic=lambda: slow.now))
    return slow


def test_times_tell_waiting_from_computing(engine):
    with working(engine, budget=4) as batcher:
        held = hold(batcher, engine)
        engine.now = 1_010.0
        waited = submit(batcher, [2] * 4, [3] * 4)  # two passes
        engine.now = 1_013.0
        engine.release.set()
        first, second = held.result(PATIENCE_S), waited.result(PATIENCE_S)
    assert (first.queued_s, first.computed_s) == (0.0, 13.0)
    assert (second.queued_s, second.computed_s) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("texts", "learnt"),
    [
        ([[2] * 16], 100 + 0.2 * (8 - 100)),  # a full pass
        ([[2] * 4], 100 + 0.05 * (2 - 100)),  # a quarter of one
        ([[2] * 3], 100),  # small ones tell nothing: a light load must not look like a slow engine
        ([[2] * 8, [2] * 4], 100 + 0.2 * (6 - 100)),  # full of padding: 12 tokens
        ([[2] * 160], 100 + 0.2 * (80 - 100)),  # no pass counts for more than a full one
    ],
)
def test_speed_is_learnt_from_each_pass_by_its_share_of_a_full_one(engine, texts, learnt):
    with working(engine, budget=16, tokens_per_s=100) as batcher:
        submit(batcher, *texts).result(PATIENCE_S)
        batcher.stop()
        assert batcher.tokens_per_s == pytest.approx(learnt)


def test_one_of_several_streams_tells_its_part_of_their_speed(engine):
    with working(engine, budget=16, tokens_per_s=100, streams=4) as batcher:
        submit(batcher, [2] * 3, [2] * 3).result(PATIENCE_S)
        batcher.stop()
        assert batcher.tokens_per_s == pytest.approx(100 + 0.2 * 6 / 16 / 4 * (4 * 3 - 100))


def test_one_text_alone_has_the_threads_of_all_streams_and_tells_nothing(engine):
    with working(engine, budget=16, tokens_per_s=100, streams=4) as batcher:
        submit(batcher, [2] * 16).result(PATIENCE_S)
        batcher.stop()
        assert batcher.tokens_per_s == 100


def test_nor_does_it_when_another_began_meanwhile(engine):
    with working(engine, budget=16, tokens_per_s=100, streams=2) as batcher:
        engine.held = True
        calls = []
        for number in (1, 2):
            calls.append(submit(batcher, [2] * 16))
            until(lambda number=number: len(engine.starts) == number)
        engine.release.set()
        assert all(call.result(PATIENCE_S) for call in calls)
        batcher.stop()
        learnt = 100 - batcher.tokens_per_s
    from_the_second = 0.2 * (100 - 2 * 16 / 2)  # or half of it, where the first had ended
    assert learnt in (pytest.approx(from_the_second), pytest.approx(from_the_second / 2))


def test_what_an_offline_pass_waits_for_a_core_is_no_slowness(engine, monkeypatch):
    share = SimpleNamespace(monotonic=lambda: engine.now, thread_time=lambda: engine.now / 10)
    monkeypatch.setattr(batcher_module, "time", share)
    with working(engine, budget=16, tokens_per_s=100, preempt=True) as batcher:
        answer = submit(batcher, [2] * 16, lane=Lane.OFFLINE).result(PATIENCE_S)
        batcher.stop()
        assert batcher.tokens_per_s == pytest.approx(100 + 0.2 * (80 - 100))
        assert answer.computed_s == pytest.approx(0.2)


def test_an_online_pass_beside_an_offline_one_counts_as_one_stream(engine, monkeypatch):
    clocks = SimpleNamespace(monotonic=lambda: engine.now, thread_time=lambda: 0.0)
    monkeypatch.setattr(batcher_module, "time", clocks)
    with working(engine, budget=16, tokens_per_s=100, preempt=True) as batcher:
        engine.held = True
        preempted = submit(batcher, [POISON] * 16, lane=Lane.OFFLINE)
        until(lambda: len(engine.starts) == 1)
        engine.held, engine.poison = False, POISON
        check_answer(submit(batcher, [3] * 16), [3] * 16)
        engine.release.set()
        error_of(preempted)
        batcher.stop()
        assert batcher.tokens_per_s == pytest.approx(100 + 0.2 * (8 - 100))


def test_a_small_pass_that_could_not_take_more_tells_the_speed(engine):
    with working(engine, budget=16, tokens_per_s=100) as batcher:
        submit(batcher, [2] * 2, [2] * 16).result(PATIENCE_S)
        batcher.stop()
        after_the_first = 100 + 0.2 * 2 / 16 * (1 - 100)
        assert batcher.tokens_per_s == pytest.approx(after_the_first + 0.2 * (8 - after_the_first))


def test_a_small_pass_during_which_more_came_does_not(engine):
    with working(engine, budget=16, tokens_per_s=100) as batcher:
        held = hold(batcher, engine)
        waited = submit(batcher, [2] * 16)
        engine.release.set()
        held.result(PATIENCE_S), waited.result(PATIENCE_S)
        batcher.stop()
        assert batcher.tokens_per_s == pytest.approx(100 + 0.2 * (8 - 100))


def test_a_pass_that_takes_no_time_is_no_division_by_zero(engine):
    engine.seconds = 0.0
    with working(engine) as batcher:
        check_answer(submit(batcher, [2]), [2])
        batcher.stop()
        assert 0 < batcher.tokens_per_s < float("inf")


def test_a_failed_pass_teaches_no_speed(engine):
    engine.poison = POISON
    watcher = Watcher()
    with working(engine, observer=watcher) as batcher:
        error_of(submit(batcher, [POISON]))
        batcher.stop()
        assert batcher.tokens_per_s == 100
    assert watcher.passes == []


def test_the_speed_learnt_moves_the_bound_of_the_lane(engine):
    with working(engine, budget=16, max_wait_s=10, tokens_per_s=100) as batcher:
        for _ in range(40):
            submit(batcher, [2] * 16).result(PATIENCE_S)
        hold(batcher, engine)
        assert batcher.tokens_per_s == pytest.approx(8, rel=0.05)
        submit(batcher, [2] * 80)
        with pytest.raises(batcher_module.Overloaded) as refused:
            submit(batcher, [2] * 80)
        assert refused.value.retry_after_s == pytest.approx(10, rel=0.05)
        assert batcher.waiting(Lane.ONLINE) == (1, 80)


def test_only_a_pass_that_goes_well_is_a_success(engine):
    engine.poison = POISON
    with working(engine) as batcher:
        error_of(submit(batcher, [POISON]))
        good = hold(batcher, engine)  # by now the loop has written down the pass before
        assert batcher.last_success is None
        engine.release.set()
        check_answer(good, [1])
        batcher.stop()
        assert batcher.last_success == engine.now
