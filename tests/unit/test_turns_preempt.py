"""Which pass begins beside which where online texts take the processor from offline ones."""

from __future__ import annotations

import pytest

from deployments.embedding.lanes import Lane, LaneLimits
from deployments.embedding.turns import Turns

from .turning import BUDGET, LATER, NOW, job, put

ONLINE, OFFLINE = (Lane.ONLINE,), (Lane.OFFLINE,)


@pytest.fixture
def preempting() -> Turns:
    """Three streams for each lane."""
    return Turns(LaneLimits(BUDGET, 40, pads=False, worth_a_pass=40, streams=3, preempt=True))


def test_each_lane_has_its_own_streams_where_one_preempts_the_other(preempting):
    put(preempting, *[BUDGET] * 4)
    put(preempting, *[BUDGET] * 4, lane=Lane.OFFLINE)
    for lanes in (ONLINE, OFFLINE) * 3:
        assert preempting.may_begin(lanes)
        assert {text.lane for text in preempting.take(NOW, lanes).texts} == set(lanes)
    assert preempting.running == 6


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


def test_passes_are_crowded_once_more_run_than_there_are_streams(preempting):
    put(preempting, *[BUDGET] * 4)
    put(preempting, *[BUDGET] * 4, lane=Lane.OFFLINE)
    first, *others = [preempting.take(NOW, lanes) for lanes in (ONLINE, ONLINE, OFFLINE)]
    assert not any(map(preempting.was_crowded, (first, *others)))
    preempting.ended(first)
    fourth = preempting.take(NOW, OFFLINE)
    assert not preempting.was_crowded(fourth)
    fifth = preempting.take(NOW, ONLINE)
    preempting.ended(fifth)
    assert all(map(preempting.was_crowded, (*others, fourth)))
    preempting.ended(fourth)
    assert not preempting.was_crowded(preempting.take(NOW, ONLINE))


@pytest.mark.parametrize(("lanes", "share"), [(ONLINE, 1.0), (OFFLINE, 0.1), (tuple(Lane), 1.0)])
def test_a_preempted_pass_may_take_longer(preempting, lanes, share):
    assert preempting.slowest(NOW) == 0.0
    put(preempting, 50)
    put(preempting, 50, lane=Lane.OFFLINE)
    preempting.take(NOW, lanes)
    assert preempting.slowest(NOW + 60) == pytest.approx(60 * share)


def test_a_trial_is_for_urgent_threads_and_all_wait_for_it(preempting):
    put(preempting, BUDGET, lane=Lane.OFFLINE)
    offline = preempting.take(NOW, OFFLINE)
    preempting.try_alone(job(5), NOW, LATER)
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
