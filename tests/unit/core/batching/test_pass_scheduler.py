"""Which pass begins beside which, without threads."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.batching.lanes import BatchLimits, DropReason
from deployments.core.batching.pass_scheduler import PassScheduler
from deployments.core.lane import Lane
from tests.support.scheduling import BUDGET, LATER, NOW, call, put


@pytest.fixture
def turns() -> PassScheduler:
    return PassScheduler(
        BatchLimits(BUDGET, shared_budget=40, pads=False, worth_a_pass=40, streams=3)
    )


def test_nothing_begins_without_work(turns):
    assert not turns.may_begin()
    put(turns, 1)
    assert turns.may_begin()


@pytest.mark.parametrize(("waiting", "begins"), [(39, False), (40, True)])
def test_beside_a_pass_that_ends_soon_only_work_enough_begins(turns, waiting, begins):
    put(turns, 39)
    short = turns.take(NOW)
    assert not turns.may_begin()
    put(turns, waiting)
    assert turns.may_begin() is begins
    turns.ended(short)
    assert turns.may_begin()


def test_beside_long_passes_a_short_text_begins_at_once(turns):
    put(turns, BUDGET)
    turns.take(NOW)
    put(turns, 1)
    assert turns.may_begin()


def test_work_of_both_lanes_counts(turns):
    put(turns, 1)
    turns.take(NOW)
    put(turns, 20)
    assert not turns.may_begin()
    put(turns, 20, lane=Lane.OFFLINE)
    assert turns.may_begin()


@pytest.mark.parametrize(
    ("texts", "passes"),
    [
        (18, [60, 60, 60]),  # all streams are idle, so each gets a third
        (9, [40, 40, 10]),  # but no less than is worth a pass
        (60, [100, 100, 100]),
    ],
)
def test_idle_streams_share_what_waits(turns, texts, passes):
    put(turns, *[10] * texts)
    assert [turns.take(NOW).tokens for _ in passes] == passes


def test_one_stream_takes_what_fits():
    turns = PassScheduler(BatchLimits(BUDGET, shared_budget=40, pads=False, worth_a_pass=40))
    put(turns, *[10] * 9)
    assert turns.take(NOW).tokens == 90


def test_a_trial_begins_when_all_else_has_ended_and_runs_alone(turns):
    put(turns, *[BUDGET] * 4)
    first, second = turns.take(NOW), turns.take(NOW)
    suspected = call(5, 6)
    turns.try_alone(suspected, NOW, LATER)
    assert not turns.may_begin()  # its turn comes, so no other pass begins
    turns.ended(first)
    assert not turns.may_begin()
    turns.ended(second)
    batch = turns.take(NOW)
    assert [(text.owner, text.row) for text in batch.texts] == [(suspected, 0)]
    assert not turns.may_begin()  # beside a trial nothing runs
    turns.ended(batch)
    of_the_lanes = turns.take(NOW)
    assert of_the_lanes.texts[0].owner is not suspected  # then it is their turn
    turns.ended(of_the_lanes)
    assert [text.row for text in turns.take(NOW).texts] == [1]


def test_trials_follow_each_other_where_nothing_else_waits(turns):
    turns.try_alone(call(5, 6), NOW, LATER)
    for row in (0, 1):
        batch = turns.take(NOW)
        assert [text.row for text in batch.texts] == [row]
        turns.ended(batch)
    assert not turns.may_begin()


@pytest.mark.parametrize(("now", "reason"), [(NOW, DropReason.GONE), (LATER, DropReason.EXPIRED)])
def test_a_trial_that_nobody_waits_for_is_dropped(turns, now, reason):
    suspected = call(5)
    turns.try_alone(suspected, NOW, LATER)
    if reason is DropReason.GONE:
        suspected.future.cancel()
    batch = turns.take(now)
    assert (batch.texts, [why for _, why in batch.dropped]) == ([], [reason])


def test_clearing_yields_all_that_waits(turns):
    waiting, suspected = put(turns, 5, 6), call(7)
    turns.try_alone(suspected, NOW, LATER)
    assert {id(owner) for owner in turns.clear()} == {id(waiting), id(suspected)}
    assert not turns.may_begin()


LENGTHS = st.lists(st.integers(1, 90), max_size=5)
BURST = st.tuples(LENGTHS, st.sampled_from([*Lane, "trial"]))


@given(
    steps=st.lists(st.one_of(BURST, st.none()), max_size=40),
    streams=st.integers(1, 4),
    pads=st.booleans(),
    preempt=st.booleans(),
)
def test_nothing_is_lost_and_nothing_comes_twice(steps, streams, pads, preempt):
    limits = BatchLimits(BUDGET, 40, pads=pads, streams=streams, worth_a_pass=40, preempt=preempt)
    turns, calls, trials, seen = PassScheduler(limits), [], [], []
    running = {lanes: deque() for lanes in limits.sharing}
    for step, burst in enumerate([*steps, *[None] * 1_000]):
        now = NOW + 0.05 * step  # so that offline texts lose their patience
        lanes = limits.sharing[step % len(limits.sharing)]
        if burst is not None and burst[1] == "trial":
            trials.append(call(*burst[0]))
            calls.append(trials[-1])
            turns.try_alone(trials[-1], NOW, LATER)
        elif burst is not None:
            calls.append(put(turns, *burst[0], lane=burst[1]))
        elif len(running[lanes]) < streams and turns.may_begin(lanes):
            batch = turns.take(now, lanes)
            running[lanes].append(batch)
            seen += [(calls.index(text.owner), text.row) for text in batch.texts]
            check_pass(batch, lanes, trials, alone=sum(map(len, running.values())) == 1)
        elif running[lanes]:
            turns.ended(running[lanes].popleft())
    sent = [(number, row) for number, call in enumerate(calls) for row in range(len(call.batch))]
    assert sorted(seen) == sent
    assert not any(map(turns.may_begin, limits.sharing))


def check_pass(batch, lanes, trials, alone):
    owners = {text.owner for text in batch.texts}
    assert owners
    if owners & set(trials):
        assert len(batch.texts) == 1
        assert alone
        return
    assert {text.lane for text in batch.texts} <= set(lanes)
    assert batch.cost <= BUDGET or len(batch.texts) == 1
