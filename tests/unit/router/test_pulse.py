"""When a router says that its cluster is gone."""

from __future__ import annotations

import pytest

from deployments.router.pulse import Pulse


class Cluster:
    """A cluster and a clock, both set by the test."""

    def __init__(self):
        self.now = 100.0
        self.answer = True

    def is_alive(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def clock(self):
        return self.now


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def pulse(cluster):
    return Pulse(cluster.is_alive, cluster.clock)


def test_a_cluster_that_answers_is_well(cluster, pulse):
    for _ in range(50):
        cluster.now += 2
        pulse.ask()
        assert pulse.problem is None


def test_a_short_silence_is_no_problem_and_a_long_one_is(cluster, pulse):
    cluster.answer = ConnectionError("no GCS")
    cluster.now += 29
    pulse.ask()
    assert pulse.problem is None
    cluster.now += 2
    pulse.ask()
    assert "31 s" in (pulse.problem or "")
    cluster.answer = True
    pulse.ask()
    assert pulse.problem is None


def test_a_call_that_never_returns_is_a_silence(cluster, pulse):
    pulse.ask()
    cluster.now += 31  # the thread is still in the next call
    assert pulse.problem


def test_a_node_that_is_taken_for_dead_is_a_problem_at_once(cluster, pulse):
    cluster.answer = False
    pulse.ask()
    assert pulse.problem
