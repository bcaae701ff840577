"""Autoscaling on a day of synthetic traffic, with up to 1,000 simulated replicas.

    python -m benchmarks.simulation

Compares the service's own policy (`deployments/core/scaling.py`) with Ray's default policy and its
delays (`ray.serve.autoscaling_policy`). The replicas are simulated as a fluid (`testing/fluid.py`).
The oracle knows the day in advance, has the replicas of each second ready in time, and uses them to
the full.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    default_autoscaling_policy,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from benchmarks.common.charts import ALERT, OURS, SHADE, draw_lines, steps
from benchmarks.common.reporting import parser, report
from deployments.core.lane import Lane
from deployments.core.scaling import Goal, State, decide
from testing.fluid import Fluid

SPEED = 20_000.0  # tokens/s of a replica
START_S = 60.0
MAX_REPLICAS = 1_000
PEAK, TROUGH = 7e6, 1.5e6  # tokens/s
DAY_S = 86_400
PASS_S = 0.25  # a forward pass: a request waits for half of one, then is in one
OURS_NAME, RAY_NAME = "tokens (ours, defaults)", "Ray's default, 2 ongoing requests"
HEADER = (
    "POLICY",
    "REPLICA-HOURS",
    "TO ORACLE",
    "TO RAY'S DEFAULT",
    "WAIT P95 S",
    "P99 S",
    "WORST S",
)
ID = DeploymentID("encoder", "simulation")

Curve = npt.NDArray[np.float64]
Policy = Callable[[Fluid, float], int]  # the fleet and the tokens of a request → replicas


@dataclass(frozen=True)
class Traffic:
    """Online traffic, second by second: tokens/s, and the mean tokens of a request."""

    tokens_per_s: Curve
    tokens_per_request: Curve


def a_day(peak: float, trough: float, bursts: int = 24, seed: int = 0) -> Traffic:
    """Returns a day: least traffic at 4 h, most at 16 h; queries by day, long documents by night.

    Bursts come at random, last 1 to 10 minutes and multiply the load by 1.25 to 2 at once. The noise is
    3% a second.
    """
    dice = np.random.default_rng(seed)
    seconds = np.arange(DAY_S)
    daily = 0.5 - 0.5 * np.cos(2 * np.pi * (seconds - 4 * 3_600) / DAY_S)
    load = trough + (peak - trough) * daily
    for start in dice.integers(0, DAY_S, bursts):
        load[start : start + dice.integers(60, 600)] *= 1 + dice.uniform(0.25, 1.0)
    noise = np.clip(dice.normal(1, 0.03, DAY_S), 0.8, 1.2)
    return Traffic(load * noise, np.geomspace(3_000, 300, 1_001)[(daily * 1_000).astype(int)])


@dataclass(frozen=True)
class Day:
    """A policy's day: replicas paid for, and tokens accepted and served up to each second."""

    replicas: Curve
    accepted: Curve
    served: Curve
    refused: float
    seconds: float

    @property
    def waits(self) -> Curve:
        """Returns, for each second, how long a token waits that comes in it."""
        clock = np.arange(len(self.served), dtype=float)
        waits: Curve = np.maximum(0.0, np.interp(self.accepted, self.served, clock) - clock)
        return waits

    def wait(self, percent: int) -> float:
        """Returns the wait that ``percent`` of the tokens did not exceed."""
        order = np.argsort(self.waits)
        tokens = np.diff(self.accepted, prepend=0.0)[order].cumsum()
        return float(self.waits[order][np.searchsorted(tokens, percent / 100 * tokens[-1])])

    @property
    def changes(self) -> int:
        """How often the number of replicas changed."""
        return int(np.count_nonzero(np.diff(self.replicas)))


class Tokens:
    """The service's policy, with its defaults."""

    def __init__(self) -> None:
        self._goal, self._state = Goal(1, MAX_REPLICAS), State()

    def __call__(self, fleet: Fluid, _request: float) -> int:
        """Returns the replicas to have."""
        wanted, self._state = decide(
            self._goal, fleet.demand(), fleet.replicas, self._state, fleet.now
        )
        return wanted


class Requests:
    """Ray's default policy and delays: ``target`` ongoing requests a replica, 30 s of look-back."""

    def __init__(self, target: float = 2.0) -> None:
        self._config = AutoscalingConfig(
            min_replicas=1, max_replicas=MAX_REPLICAS, target_ongoing_requests=target
        )
        self._recent: deque[float] = deque(maxlen=int(self._config.look_back_period_s))
        self._state: dict[str, object] = {}
        self._served = 0.0

    def __call__(self, fleet: Fluid, request: float) -> int:
        """Returns the replicas to have."""
        served, self._served = fleet.served[Lane.ONLINE] - self._served, fleet.served[Lane.ONLINE]
        waiting = fleet.waiting[Lane.ONLINE]
        self._recent.append((waiting + served * 1.5 * PASS_S) / request)
        context = self._context(fleet, sum(self._recent) / len(self._recent))
        desired, _ = default_autoscaling_policy(context)
        scaled = _apply_scaling_factors(desired, fleet.running, self._config)
        wanted: int
        wanted, self._state = _apply_delay_logic(
            max(0, scaled), fleet.replicas, self._config, self._state, fleet.now
        )
        return max(1, min(MAX_REPLICAS, wanted))

    def _context(self, fleet: Fluid, ongoing: float) -> AutoscalingContext:
        return AutoscalingContext(
            deployment_id=ID,
            deployment_name=ID.name,
            app_name=ID.app_name,
            current_num_replicas=fleet.running,
            target_num_replicas=fleet.replicas,
            running_replicas=[],
            total_num_requests=ongoing,
            total_queued_requests=None,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=1,
            capacity_adjusted_max_replicas=MAX_REPLICAS,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=fleet.now,
            config=self._config,
        )


def simulate(policy: Policy, traffic: Traffic) -> Day:
    """Runs a fleet through the day under a policy."""
    fleet = Fluid(SPEED, START_S, running=int(traffic.tokens_per_s[0] / SPEED / 0.7) + 1)
    replicas, accepted, served = np.zeros((3, DAY_S))
    started = time.perf_counter()
    for second in range(DAY_S):
        fleet.scale(policy(fleet, float(traffic.tokens_per_request[second])))
        fleet.step({Lane.ONLINE: float(traffic.tokens_per_s[second]), Lane.OFFLINE: 0.0})
        replicas[second] = fleet.replicas
        served[second] = fleet.served[Lane.ONLINE]
        accepted[second] = served[second] + fleet.waiting[Lane.ONLINE]
    return Day(replicas, accepted, served, fleet.refused, time.perf_counter() - started)


def main() -> None:
    """Prints the table and draws the day."""
    parser("simulation", __doc__).parse_args()
    traffic = a_day(PEAK, TROUGH)
    oracle = np.ceil(traffic.tokens_per_s / SPEED)
    tuned = 1.5 * PASS_S * 0.7 * SPEED / 300  # ongoing requests at 70%, for requests by day
    days = {
        OURS_NAME: simulate(Tokens(), traffic),
        RAY_NAME: simulate(Requests(), traffic),
        f"Ray's, {tuned:.1f} ongoing (70% by day)": simulate(Requests(tuned), traffic),
    }
    ray_hours = days[RAY_NAME].replicas.sum()
    rows = [_row(name, day, oracle, ray_hours) for name, day in days.items()]
    least, to_ray = oracle.sum() / 3_600, oracle.sum() / ray_hours
    waits = ("0.0", "0.0", "0.0", "0.00%", "-", "-")
    rows.append(("oracle", f"{least:.0f}", "1.00", f"{to_ray:.2f}", *waits))
    report(
        "simulation",
        (*HEADER, "REFUSED", "CHANGES", "SECONDS TO RUN"),
        rows,
        oracle_at_70_percent=round(least / 0.7),
        most_replicas_needed=int(oracle.max()),
        replica_tokens_per_s=int(SPEED),
        start_s=START_S,
    )
    draw_lines("simulation", len(days), 1, 6.4, lambda axes: _draw(axes[:, 0], oracle, days))


def _row(name: str, day: Day, oracle: Curve, ray_hours: float) -> tuple[str, ...]:
    offered = day.accepted[-1] + day.refused
    return (
        name,
        f"{day.replicas.sum() / 3_600:.0f}",
        f"{day.replicas.sum() / oracle.sum():.2f}",
        f"{day.replicas.sum() / ray_hours:.2f}",
        f"{day.wait(95):.1f}",
        f"{day.wait(99):.1f}",
        f"{day.waits.max():.1f}",
        f"{day.refused / offered:.2%}",
        str(day.changes),
        f"{day.seconds:.1f}",
    )


def _draw(axes: Any, oracle: Curve, days: dict[str, Day]) -> None:
    hours = np.arange(DAY_S)[::60] / 3_600
    needed = oracle.reshape(-1, 60).max(axis=1)
    for axis, (name, day) in zip(axes, days.items(), strict=True):
        axis.fill_between(hours, needed, step="post", color=SHADE, label="needed (oracle)")
        steps(axis, hours, day.replicas[::60], "replicas", OURS)
        late = day.waits.reshape(-1, 60).max(axis=1) > 1
        marks = np.full(late.sum(), 1_060)
        axis.plot(hours[late], marks, "|", color=ALERT, label="waits over 1 s")
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_ylim(0, 1_110)
        axis.set_ylabel("replicas", fontsize=8)
    axes[0].legend(fontsize=8, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    axes[-1].set_xlabel("hour of a synthetic day (simulated)", fontsize=8)
    axes[-1].set_xlim(0, 24)


if __name__ == "__main__":
    main()
