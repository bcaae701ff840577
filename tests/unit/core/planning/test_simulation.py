"""The simulation that plans and the benchmark use: its arithmetic, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.core.planning.fluid import Fluid
from deployments.core.planning.simulation import OwnPolicy, Run, Traffic, fleet_for, simulate
from deployments.core.scaling import Goal


def traffic(*tokens: float) -> Traffic:
    return Traffic(np.array(tokens, float), np.ones(len(tokens)))


def fixed(count: int, course: Traffic, **fluid: float) -> Run:
    """Runs a fleet that keeps its replicas of 100 tokens/s."""
    return simulate(lambda fleet: count, course, Fluid(100.0, 5.0, running=count, **fluid))


def test_enough_replicas_make_nothing_wait():
    run = fixed(2, traffic(200, 150, 0, 0, 200))
    assert run.waits.tolist() == [0] * 5
    assert (run.refused, run.changes, run.replica_hours) == (0, 0, 10 / 3_600)


def test_a_backlog_waits_until_it_is_served():
    run = fixed(1, traffic(100, 250, 100, 0, 0, 0))
    # work that ends within a second counts as done at its end
    assert run.waits.tolist() == pytest.approx([0, 1.5, 2, 1, 0, 0])


def test_waits_end_with_the_work_and_not_with_the_next_request():
    run = fixed(1, traffic(50, 0, 0, 0, 0, 0, 80))
    assert run.waits.tolist() == [0] * 7


def test_percentiles_count_tokens_and_not_seconds():
    run = fixed(1, traffic(1, 1, 1, 1, 400, 0, 0, 0, 0))
    assert run.wait(50) == pytest.approx(3)
    assert run.wait(0.5) == 0


def test_more_than_may_wait_is_refused():
    run = fixed(1, traffic(500, 0, 0), most_wait_s=1)
    assert run.refused == 300
    assert run.refused_share == 0.6
    assert run.accepted[-1] == 200


def test_the_oracle_has_what_each_second_needs():
    assert traffic(0, 1, 100, 101).oracle(100).tolist() == [0, 1, 1, 2]
    assert traffic(0, 1, 100, 101).oracle(100, min_replicas=1).tolist() == [1, 1, 1, 2]


def test_a_fleet_begins_within_its_bounds():
    def first(tokens: float, least: int, most: int) -> int:
        return fleet_for(traffic(tokens), 100.0, 5.0, Goal(least, most)).running

    assert [first(1_400, 1, 50), first(1_400, 1, 8), first(0, 3, 8)] == [21, 8, 3]
    assert (first(0, 0, 8), first(1, 0, 8)) == (0, 1)


def test_from_zero_the_first_request_waits_for_a_start():
    course = traffic(*[0] * 10, 50, *[0] * 20)
    goal = Goal(0, 4)
    run = simulate(OwnPolicy(goal), course, fleet_for(course, 100.0, 5.0, goal))
    assert run.replicas[:10].tolist() == [0] * 10
    assert run.replicas[-1] == 1
    assert 5 <= run.waits[10] <= 7
    assert run.refused == 0


def test_the_own_policy_keeps_what_steady_load_needs():
    course = traffic(*[1_000.0] * 300)
    goal = Goal(1, 50)
    run = simulate(OwnPolicy(goal), course, fleet_for(course, 100.0, 5.0, goal))
    assert set(run.replicas.tolist()) == {15}
    assert run.waits.max() == 0
