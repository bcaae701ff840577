"""Which pass begins beside which, without threads."""

from __future__ import annotations

import pytest

from deployments.embedding.batch import TokenBatch
from deployments.embedding.job import Job
from deployments.embedding.lanes import Drop, Lane, LaneLimits
from deployments.embedding.turns import Turns

BUDGET = 100
NOW = 1_000.0
LATER = NOW + 60


@pytest.fixture
def turns() -> Turns:
    return Turns(LaneLimits(BUDGET, shared_budget=40, pads=False))


def job(*lengths: int) -> Job:
    return Job(TokenBatch.from_lists([[7] * n for n in lengths]), Lane.ONLINE, 4, NOW)


def put(turns: Turns, *lengths: int) -> Job:
    found = job(*lengths)
    turns.lanes.put(found, lengths, Lane.ONLINE, NOW, LATER)
    return found


def test_nothing_begins_without_work(turns):
    assert not turns.may_begin()
    put(turns, 1)
    assert turns.may_begin()


@pytest.mark.parametrize(("waiting", "begins"), [(39, False), (40, True)])
def test_another_pass_begins_only_for_work_enough(turns, waiting, begins):
    put(turns, BUDGET)
    turns.take(NOW)
    assert not turns.may_begin()
    put(turns, waiting)
    assert turns.may_begin() is begins
    turns.ended()
    assert turns.may_begin()


def test_work_of_both_lanes_counts(turns):
    put(turns, BUDGET)
    turns.take(NOW)
    put(turns, 20)
    turns.lanes.put(job(20), [20], Lane.OFFLINE, NOW, LATER)
    assert turns.may_begin()


def test_a_trial_begins_when_all_else_has_ended_and_runs_alone(turns):
    put(turns, *[BUDGET] * 4)
    turns.take(NOW)
    turns.take(NOW)
    accused = job(5, 6)
    turns.try_alone(accused, NOW, LATER)
    assert not turns.may_begin()  # its turn comes, so no other pass begins
    turns.ended()
    assert not turns.may_begin()
    turns.ended()
    batch = turns.take(NOW)
    assert [(text.owner, text.row) for text in batch.texts] == [(accused, 0)]
    assert not turns.may_begin()  # beside a trial nothing runs
    turns.ended()
    assert turns.take(NOW).texts[0].owner is not accused  # then the lanes' turn
    turns.ended()
    assert [text.row for text in turns.take(NOW).texts] == [1]


def test_trials_follow_each_other_where_nothing_else_waits(turns):
    turns.try_alone(job(5, 6), NOW, LATER)
    for row in (0, 1):
        assert [text.row for text in turns.take(NOW).texts] == [row]
        turns.ended()
    assert not turns.may_begin()


@pytest.mark.parametrize(("now", "reason"), [(NOW, Drop.GONE), (LATER, Drop.EXPIRED)])
def test_a_trial_that_nobody_waits_for_is_dropped(turns, now, reason):
    accused = job(5)
    turns.try_alone(accused, NOW, LATER)
    if reason is Drop.GONE:
        accused.future.cancel()
    batch = turns.take(now)
    assert (batch.texts, [why for _, why in batch.dropped]) == ([], [reason])


def test_clearing_yields_all_that_waits(turns):
    waiting, accused = put(turns, 5, 6), job(7)
    turns.try_alone(accused, NOW, LATER)
    assert {id(owner) for owner in turns.clear()} == {id(waiting), id(accused)}
    assert not turns.may_begin()
