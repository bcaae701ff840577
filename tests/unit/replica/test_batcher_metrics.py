"""The metrics that a replica records about its passes, and when."""

from __future__ import annotations

from collections import Counter

import pytest

from deployments import metrics
from deployments.core.batching.observing import Pass
from deployments.core.lane import Lane
from deployments.metrics import BatcherMetrics

NOTHING = dict.fromkeys(Lane, (0, 0))
SOMETHING = {Lane.ONLINE: (0, 0), Lane.OFFLINE: (3, 30)}


@pytest.fixture
def recorded(monkeypatch):
    """The sums of the counters, which stand for Ray's."""
    sums: Counter[str] = Counter()

    class Recorder:
        def __init__(self, name: str) -> None:
            self.name = name

        def inc(self, value, tags):
            assert value > 0, "Ray refuses to add nothing"
            sums[self.name] += value

        def ignore(self, *_):
            pass

        set = observe = ignore

    for kind in ("_counter", "_gauge", "_histogram"):
        monkeypatch.setattr(metrics, kind, lambda name, *_: Recorder(name))
    return sums


def ran(batcher: BatcherMetrics, texts: int) -> None:
    batcher.ran(Pass((10,) * texts, 10 * texts, 0.01, {Lane.OFFLINE: 0.5}))


def test_the_sums_of_a_pass(recorded):
    batcher = BatcherMetrics("m", 100)
    ran(batcher, 3)
    batcher.waiting(NOTHING)
    assert recorded == {"texts_total": 3, "tokens_total": 30, "busy_seconds_total": 0.01}


@pytest.mark.parametrize("left", [NOTHING, SOMETHING])
def test_passes_that_follow_each_other_are_recorded_together(left, recorded, monkeypatch):
    batcher, now = BatcherMetrics("m", 100), [100.0]
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now[0])
    for _ in range(4):
        ran(batcher, 1)
        batcher.waiting(left)
    assert recorded["texts_total"] == 1, "the first, then none for half a second"
    now[0] += 0.6
    ran(batcher, 1)
    batcher.waiting(left)
    assert recorded["texts_total"] == 5


def test_a_pass_of_dropped_texts_adds_nothing(recorded):
    BatcherMetrics("m", 100).waiting(NOTHING)
    assert not recorded
