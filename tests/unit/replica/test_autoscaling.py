"""From what Serve's controller knows to a number of replicas, with Serve's own types."""

from __future__ import annotations

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.autoscaling_policy import _apply_autoscaling_config
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from deployments.app import _scale
from deployments.config.schema import Autoscaling
from deployments.core.lane import Lane
from deployments.core.scaling import Demand
from deployments.replica.autoscaling import TokenPolicy, demand_of, report

NOW = 1_000.0
ID = DeploymentID("encoder-a", "embedfleet")
REPLICAS = [ReplicaID(name, ID) for name in "ab"]
SCALING = Autoscaling(min_replicas=0, max_replicas=4, downscale_to_zero_delay_s=10)


def lanes(online: float, offline: float = 0) -> dict[Lane, float]:
    return {Lane.ONLINE: online, Lane.OFFLINE: offline}


def reports(*values: dict[str, float]) -> dict[str, list[TimeStampedValue]]:
    """Returns the series of one replica that reported these, a second apart, the last one now."""
    times = [NOW - age for age in reversed(range(len(values)))]
    return {
        name: [TimeStampedValue(at, value[name]) for at, value in zip(times, values, strict=True)]
        for name in values[0]
    }


def context(*replicas: dict, target: int = 1, calls: float = 0, state=None, now: float = NOW):
    metrics: dict = {}
    for replica, series in zip(REPLICAS, replicas, strict=False):
        for name, points in series.items():
            metrics.setdefault(name, {})[replica] = points
    return AutoscalingContext(
        deployment_id=ID,
        deployment_name=ID.name,
        app_name=ID.app_name,
        current_num_replicas=len(replicas),
        target_num_replicas=target,
        running_replicas=REPLICAS[: len(replicas)],
        total_num_requests=calls,
        total_queued_requests=calls,
        aggregated_metrics=None,
        raw_metrics=lambda: metrics,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=4,
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=now,
        config=AutoscalingConfig(**_scale(SCALING)["autoscaling_config"]),
    )


def busy(*arrived: int, waiting: int = 0, speed: float = 1_000.0):
    return reports(*(report(lanes(n), lanes(waiting), speed, 2.0) for n in arrived))


def test_counters_become_rates_and_backlogs_add_up():
    first, second = busy(0, 100, 300, 600, waiting=50), busy(0, 0, 10, waiting=30, speed=3_000)
    assert demand_of(context(first, second)) == Demand(
        2, 2_000, 2.0, lanes(250 + 5), lanes(80), 0.0
    )


def test_a_replica_with_one_report_has_no_rate_yet():
    assert demand_of(context(busy(500))).arriving == lanes(0)


def test_a_replica_without_its_model_does_not_count():
    assert demand_of(context(reports(report(lanes(5), lanes(0), 10, 1)), {})).speed == 10
    assert demand_of(context({})) == Demand(1)


def test_without_a_replica_the_waiting_calls_count():
    assert demand_of(context(target=0, calls=3)) == Demand(0, calls=3)


class Clock:
    """A monotonic clock that stands still until it is set."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def drive(policy, clock):
    """Calls the policy as Serve does, ten times a second; returns the number of replicas at the end.

    ``jump`` is how far the wall clock is set, halfway through.
    """

    def driven(seconds: int, *replicas: dict, target: int = 1, jump: float = 0.0) -> int:
        state: dict = {}
        for tick in range(seconds * 10):
            now = NOW + tick / 10 + (jump if tick >= seconds * 5 else 0.0)
            target, state = policy(context(*replicas, target=target, state=state, now=now))
            clock.now += 0.1
        return target

    return driven


@pytest.fixture
def policy(clock):
    """The policy as Serve wraps it, with its own delays and factors."""
    goal = _scale(SCALING)["autoscaling_config"]["policy"]
    return _apply_autoscaling_config(TokenPolicy(clock=clock, **goal["policy_kwargs"]))


def test_serve_adds_no_delay_of_its_own(drive):
    load = busy(0, 2_000, 4_000)
    assert drive(3, load) == 1
    assert drive(5, load) == 3


def test_without_tokens_it_scales_to_zero(drive):
    idle = busy(900, 900, 900)
    assert drive(10, idle) == 1
    assert drive(13, idle) == 0


@pytest.mark.parametrize("jump", [-3_600.0, 3_600.0])
def test_a_wall_clock_that_is_set_changes_no_decision(drive, jump):
    assert drive(8, busy(0, 2_000, 4_000), jump=jump) == 3
    assert drive(8, busy(900, 900, 900), jump=jump) == 1
    assert drive(13, busy(900, 900, 900), jump=jump) == 0


def test_a_state_of_a_later_clock_is_dropped(policy, clock):
    _, state = policy(context(busy(0, 0)))
    clock.now -= 20
    _, restarted = policy(context(busy(0, 0), state=state))
    assert restarted["decided"] == clock.now


def test_the_first_call_starts_a_replica_at_once(policy):
    assert policy(context(target=0, calls=1))[0] == 1


def test_it_decides_once_a_second(policy, clock):
    _, state = policy(context(busy(0, 0)))
    decided = clock.now
    clock.now += 0.5
    again = context(busy(0, 0), state=state)
    again._raw_metrics_value = None  # it does not even read them
    assert policy(again)[1]["decided"] == decided


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="patience"):
        TokenPolicy(min_replicas=0, max_replicas=1, patience=3)
