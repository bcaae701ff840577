"""Which pass begins beside which, without threads."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.embedding.batch import TokenBatch
from deployments.embedding.job import Job
from deployments.embedding.lanes import Drop, Lane, LaneLimits
from deployments.embedding.turns import Turns

BUDGET = 100
NOW = 1_000.0
LATER = NOW + 60


@pytest.fixture
def turns() -> Turns:
    return Turns(LaneLimits(BUDGET, shared_budget=40, pads=False, worth_a_pass=40, streams=3))


@pytest.fixture
def reserving() -> Turns:
    """Two of three streams take offline texts."""
    limits = LaneLimits(BUDGET, 40, pads=False, worth_a_pass=40, streams=3, reserved=True)
    return Turns(limits)


def job(*lengths: int) -> Job:
    return Job(TokenBatch.from_lists([[7] * n for n in lengths]), Lane.ONLINE, 4, NOW)


def put(turns: Turns, *lengths: int, lane: Lane = Lane.ONLINE) -> Job:
    found = job(*lengths)
    turns.lanes.put(found, lengths, lane, NOW, LATER)
    return found


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
    turns = Turns(LaneLimits(BUDGET, shared_budget=40, pads=False, worth_a_pass=40))
    put(turns, *[10] * 9)
    assert turns.take(NOW).tokens == 90


def test_offline_texts_leave_the_reserved_stream_to_online_ones(reserving):
    put(reserving, *[BUDGET] * 5, lane=Lane.OFFLINE)
    first, second = reserving.take(NOW), reserving.take(NOW)
    assert not reserving.may_begin()
    put(reserving, 10, 10)
    assert reserving.may_begin()
    online = reserving.take(NOW)
    assert [text.tokens for text in online.texts] == [10, 10]
    reserving.ended(online)
    assert not reserving.may_begin()
    reserving.ended(first)
    assert reserving.may_begin()
    assert reserving.take(NOW).is_offline
    reserving.ended(second)
    assert reserving.may_begin()


def test_online_texts_may_have_all_streams(reserving):
    put(reserving, *[BUDGET] * 4)
    put(reserving, *[BUDGET] * 4, lane=Lane.OFFLINE)
    for _ in range(3):
        assert reserving.may_begin()
        assert not reserving.take(NOW).is_offline


def test_an_online_text_does_not_wait_for_a_short_offline_pass(reserving):
    put(reserving, 39, lane=Lane.OFFLINE)
    reserving.take(NOW)
    put(reserving, 1, lane=Lane.OFFLINE)
    assert not reserving.may_begin()
    put(reserving, 10)
    assert reserving.may_begin()
    assert [text.tokens for text in reserving.take(NOW).texts] == [10]


def test_no_pass_is_shared_where_a_stream_is_reserved(reserving):
    put(reserving, 10)
    put(reserving, *[10] * 18, lane=Lane.OFFLINE)
    assert [reserving.take(NOW).tokens for _ in range(3)] == [10, 90, 90]


def test_offline_texts_share_only_the_streams_they_may_have(reserving):
    put(reserving, *[10] * 18, lane=Lane.OFFLINE)
    assert [reserving.take(NOW).tokens for _ in range(2)] == [90, 90]


def test_an_online_pass_in_the_reserved_stream_leaves_the_others_to_offline_texts(reserving):
    put(reserving, 10)
    reserving.take(NOW)
    put(reserving, *[10] * 8, lane=Lane.OFFLINE)
    assert [reserving.take(NOW).tokens for _ in range(2)] == [40, 40]


@pytest.mark.parametrize(("lane", "leaves_some"), [(Lane.ONLINE, True), (Lane.OFFLINE, False)])
def test_a_pass_leaves_only_what_it_might_have_taken(reserving, lane, leaves_some):
    put(reserving, BUDGET)
    put(reserving, BUDGET, lane=lane)
    assert reserving.take(NOW).leaves_some is leaves_some


def test_a_stream_can_be_reserved_beside_another_only():
    with pytest.raises(ValueError, match="reserved"):
        LaneLimits(BUDGET, 40, streams=1, reserved=True)


def test_a_trial_begins_when_all_else_has_ended_and_runs_alone(turns):
    put(turns, *[BUDGET] * 4)
    first, second = turns.take(NOW), turns.take(NOW)
    accused = job(5, 6)
    turns.try_alone(accused, NOW, LATER)
    assert not turns.may_begin()  # its turn comes, so no other pass begins
    turns.ended(first)
    assert not turns.may_begin()
    turns.ended(second)
    batch = turns.take(NOW)
    assert [(text.owner, text.row) for text in batch.texts] == [(accused, 0)]
    assert not turns.may_begin()  # beside a trial nothing runs
    turns.ended(batch)
    of_the_lanes = turns.take(NOW)
    assert of_the_lanes.texts[0].owner is not accused  # then it is their turn
    turns.ended(of_the_lanes)
    assert [text.row for text in turns.take(NOW).texts] == [1]


def test_trials_follow_each_other_where_nothing_else_waits(turns):
    turns.try_alone(job(5, 6), NOW, LATER)
    for row in (0, 1):
        batch = turns.take(NOW)
        assert [text.row for text in batch.texts] == [row]
        turns.ended(batch)
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


BURST = st.tuples(st.lists(st.integers(1, 90), max_size=5), st.sampled_from(Lane))


@given(
    steps=st.lists(st.one_of(BURST, st.none()), max_size=40),
    streams=st.integers(1, 4),
    pads=st.booleans(),
    reserved=st.booleans(),
)
def test_nothing_is_lost_and_nothing_comes_twice(steps, streams, pads, reserved):
    reserved = reserved and streams > 1
    limits = LaneLimits(BUDGET, 40, pads=pads, streams=streams, worth_a_pass=40, reserved=reserved)
    turns, running, jobs, seen = Turns(limits), deque(), [], []
    for step, burst in enumerate([*steps, *[None] * 400]):
        now = NOW + 0.1 * step  # so that offline texts lose their patience
        if burst is not None:
            jobs.append(put(turns, *burst[0], lane=burst[1]))
        elif len(running) < streams and turns.may_begin():
            running.append(turns.take(now))
            seen += [(jobs.index(text.owner), text.row) for text in running[-1].texts]
            assert running[-1].texts
            assert running[-1].cost <= BUDGET or len(running[-1].texts) == 1
            assert not reserved or sum(batch.is_offline for batch in running) < streams
        elif running:
            turns.ended(running.popleft())
    sent = [(number, row) for number, job in enumerate(jobs) for row in range(len(job.batch))]
    assert sorted(seen) == sent
    assert not turns.may_begin()
