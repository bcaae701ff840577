"""Which pass begins beside which where online texts take the processor from offline ones."""

from __future__ import annotations

import pytest

from deployments.core.batching.lanes import BatchLimits
from deployments.core.batching.pass_scheduler import PassScheduler
from deployments.core.lane import Lane
from tests.support.scheduling import BUDGET, LATER, NOW, call, put

ONLINE, OFFLINE = (Lane.ONLINE,), (Lane.OFFLINE,)


@pytest.fixture
def preempting() -> PassScheduler:
    """Three streams for each lane."""
    return PassScheduler(
        BatchLimits(BUDGET, 40, pads=False, worth_a_pass=40, streams=3, preempt=True)
    )


def test_each_lane_has_its_own_streams_where_one_preempts_the_other(preempting):
    put(preempting, *[BUDGET] * 4)
    put(preempting, *[BUDGET] * 4, lane=Lane.OFFLINE)
    for lanes in (ONLINE, OFFLINE) * 3:
        assert preempting.may_begin(lanes)
        assert {text.lane for text in preempting.take(NOW, lanes).texts} == set(lanes)
    assert len(preempting.running) == 6


def test_a_lane_waits_for_its_own_short_passes_only(preempting):
    put(preempting, 39, lane=Lane.OFFLINE)
    preempting.take(NOW, OFFLINE)
    put(preempting, 1, lane=Lane.OFFLINE)
    assert not preempting.may_begin(OFFLINE)
    put(preempting, 10)
    assert preempting.may_begin(ONLINE)
    assert [text.tokens for text in preempting.take(NOW, ONLINE).texts] == [10]
    assert not preempting.may_begin(ONLINE)


@pytest.mark.parametrize(
    ("mine", "other"), [(Lane.ONLINE, Lane.OFFLINE), (Lane.OFFLINE, Lane.ONLINE)]
)
def test_a_lanes_idle_streams_share_its_own_texts(preempting, mine, other):
    put(preempting, *[BUDGET] * 3, lane=other)
    preempting.take(NOW, (other,))
    put(preempting, *[10] * 18, lane=mine)
    assert [preempting.take(NOW, (mine,)).tokens for _ in range(3)] == [60, 60, 60]


def test_an_offline_pass_that_is_preempted_may_be_a_full_one(preempting):
    put(preempting, 1)
    put(preempting, *[10] * 30, lane=Lane.OFFLINE)
    assert preempting.take(NOW, OFFLINE).tokens == BUDGET


@pytest.mark.parametrize("lane", Lane)
def test_a_pass_leaves_only_what_it_might_have_taken(preempting, lane):
    put(preempting, BUDGET)
    put(preempting, BUDGET, lane=lane)
    assert preempting.take(NOW, ONLINE).leaves_some is (lane is Lane.ONLINE)


def test_a_trial_is_for_urgent_threads_and_all_wait_for_it(preempting):
    put(preempting, BUDGET, lane=Lane.OFFLINE)
    offline = preempting.take(NOW, OFFLINE)
    preempting.try_alone(call(5), NOW, LATER)
    put(preempting, BUDGET, BUDGET)
    put(preempting, BUDGET, lane=Lane.OFFLINE)
    assert not any(map(preempting.may_begin, (ONLINE, OFFLINE)))
    preempting.ended(offline)
    assert [*map(preempting.may_begin, (ONLINE, OFFLINE))] == [True, False]
    trial = preempting.take(NOW, ONLINE)
    assert [text.tokens for text in trial.texts] == [5]
    assert not any(map(preempting.may_begin, (ONLINE, OFFLINE)))
    preempting.ended(trial)
    assert all(map(preempting.may_begin, (ONLINE, OFFLINE)))


def test_between_trials_each_lane_has_its_turn(preempting):
    preempting.try_alone(call(5, 6), NOW, LATER)
    first = preempting.take(NOW, ONLINE)
    put(preempting, BUDGET, BUDGET, BUDGET)
    put(preempting, BUDGET, lane=Lane.OFFLINE)
    preempting.ended(first)
    online = preempting.take(NOW, ONLINE)
    assert preempting.may_begin(OFFLINE)  # though the next trial waits
    offline = preempting.take(NOW, OFFLINE)
    assert not any(map(preempting.may_begin, (ONLINE, OFFLINE)))
    preempting.ended(online)
    preempting.ended(offline)
    assert [text.tokens for text in preempting.take(NOW, ONLINE).texts] == [6]
