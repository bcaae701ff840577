"""Replicas for a deadline or a budget."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deployments.core.planning.corpus import (
    START_SHARE,
    Infeasible,
    Job,
    replicas_for_budget,
    replicas_for_deadline,
)

JOBS = st.builds(
    Job,
    tokens=st.floats(1, 1e13),
    tokens_per_s=st.floats(1, 1e7),
    efficiency=st.floats(0.01, 1),
    start_s=st.floats(0, 3_600),
)
CLOSE = 1e-6  # relative


def start_share(job: Job, replicas: int) -> float:
    return job.start_s / job.seconds(replicas)


def test_by_hand():
    job = Job(tokens=3.6e9, tokens_per_s=20_000, efficiency=0.5, start_s=100)
    assert job.work_s == 360_000
    assert replicas_for_deadline(job, 3_700) == 100
    assert (job.seconds(100), job.replica_hours(100)) == (3_700, pytest.approx(102.78, abs=0.01))
    assert replicas_for_budget(job, 110) == 360  # 100 hours of work, and 36,000 s of starts
    assert replicas_for_budget(job, 500) == 400  # 40,000 s of starts are a tenth of all


@given(JOBS, st.floats(1, 1e7))
def test_the_deadline_is_kept_and_one_replica_less_would_miss_it(job, seconds):
    assume(seconds > job.start_s * (1 + CLOSE) + CLOSE)
    replicas = replicas_for_deadline(job, seconds)
    assert job.seconds(replicas) <= seconds * (1 + CLOSE)
    assert replicas == 1 or job.seconds(replicas - 1) > seconds


@given(JOBS, st.floats(1, 1e7), st.floats(1, 1e7))
def test_a_tighter_deadline_never_takes_fewer_replicas(job, one, other):
    tight, loose = sorted((one, other))
    assume(tight > job.start_s)
    assert replicas_for_deadline(job, tight) >= replicas_for_deadline(job, loose)


@given(JOBS, st.floats(1e-3, 1e9))
def test_a_budget_is_never_exceeded(job, hours):
    assume(hours >= job.replica_hours(1))
    replicas = replicas_for_budget(job, hours)
    assert job.replica_hours(replicas) <= hours * (1 + CLOSE)
    more = job.replica_hours(replicas + 1) > hours * (1 - CLOSE)
    assert (
        more or replicas >= job.work_s or start_share(job, replicas + 1) > START_SHARE * (1 - CLOSE)
    )


@given(JOBS, st.floats(1e-3, 1e9))
def test_a_budget_is_not_spent_on_starts(job, hours):
    assume(hours >= job.replica_hours(1))
    replicas = replicas_for_budget(job, hours)
    assert replicas == 1 or start_share(job, replicas) <= START_SHARE * (1 + CLOSE)


@given(JOBS, st.floats(1, 2), st.floats(1, 2))
def test_a_larger_budget_never_takes_longer(job, one, other):
    small, large = (job.replica_hours(1) * times for times in sorted((one, other)))
    assert replicas_for_budget(job, large) >= replicas_for_budget(job, small)


@given(JOBS, st.integers(1, 10_000))
def test_a_deadline_and_a_budget_that_come_from_a_plan_give_it_again(job, replicas):
    assume(replicas <= job.work_s)
    assume(job.start_s > 1)
    assume(job.work_s / replicas > CLOSE * job.seconds(replicas))  # else it is lost in rounding
    assert replicas_for_deadline(job, job.seconds(replicas)) == pytest.approx(replicas, rel=0.001)
    if start_share(job, replicas) <= START_SHARE:
        assert replicas_for_budget(job, job.replica_hours(replicas)) >= replicas - 1


def test_a_deadline_within_the_start_is_impossible():
    with pytest.raises(Infeasible) as error:
        replicas_for_deadline(Job(1e6, 1e3, 1, start_s=60), 60)
    assert error.value.limit == 60


def test_a_budget_below_one_replica_is_impossible():
    job = Job(3.6e6, 1e3, 1, start_s=0)
    with pytest.raises(Infeasible) as error:
        replicas_for_budget(job, 0.99)
    assert error.value.limit == 1
    assert replicas_for_budget(job, 1) == 3_600  # without a start, more cost no more
