"""The policy that runs in the service, with up to 1,000 replicas and a day of synthetic traffic.

    python -m benchmarks.simulation

The code that decides is the service's own (`deployments/core/scaling.py`) and, beside it,
Ray's own default policy with its own delays (`ray.serve.autoscaling_policy`). The replicas are a
fluid (`testing/fluid.py`). The oracle knows each second of the day before it comes, has its replicas
there in time, and uses them to the full.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ray.serve._private.common import DeploymentID
from ray.serve.autoscaling_policy import (
    _apply_delay_logic,
    _apply_scaling_factors,
    default_autoscaling_policy,
)
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from benchmarks import line_plots
from benchmarks.harness import report
from benchmarks.traffic import DAY_S, Curve, Traffic, a_day
from deployments.core.lane import Lane
from deployments.core.scaling import Goal, State, decide
from testing.fluid import Fluid

SPEED = 20_000.0  # tokens/s of a replica
START_S = 60.0
MOST = 1_000
PEAK, TROUGH = 7e6, 1.5e6  # tokens/s
PASS_S = 0.25  # a forward pass: a request waits for half of one, and is in one
ID = DeploymentID("encoder", "simulation")

Policy = Callable[[Fluid, float], int]  # the fleet and the tokens of a request → replicas


@dataclass(frozen=True)
class Day:
    """What a policy did: replicas paid for, and tokens accepted and served up to each second."""

    replicas: Curve
    accepted: Curve
    served: Curve
    refused: float
    seconds: float

    @property
    def waits(self) -> Curve:
        """Returns the wait of a token that came in each second."""
        clock = np.arange(len(self.served), dtype=float)
        return np.maximum(0.0, np.interp(self.accepted, self.served, clock) - clock)

    def wait(self, percent: int) -> float:
        """Returns the wait that so many percent of the tokens did not exceed."""
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
        self._goal, self._state = Goal(1, MOST), State()

    def __call__(self, fleet: Fluid, _request: float) -> int:
        """Returns the replicas to have."""
        wanted, self._state = decide(
            self._goal, fleet.demand(), fleet.replicas, self._state, fleet.now
        )
        return wanted


class Requests:
    """Ray's default policy and delays; ``target`` ongoing requests a replica, 30 s of look-back."""

    def __init__(self, target: float = 2.0) -> None:
        self._config = AutoscalingConfig(
            min_replicas=1, max_replicas=MOST, target_ongoing_requests=target
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
        wanted, self._state = _apply_delay_logic(
            max(0, scaled), fleet.replicas, self._config, self._state, fleet.now
        )
        return max(1, min(MOST, wanted))

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
            capacity_adjusted_max_replicas=MOST,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=fleet.now,
            config=self._config,
        )


def live(policy: Policy, traffic: Traffic) -> Day:
    """Lets a fleet live through the day under a policy."""
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
    traffic = a_day(PEAK, TROUGH)
    oracle = np.ceil(traffic.tokens_per_s / SPEED)
    tuned = 1.5 * PASS_S * 0.7 * SPEED / 300  # ongoing requests at 70%, of the requests by day
    days = {
        "tokens (ours, defaults)": live(Tokens(), traffic),
        "Ray's default, 2 ongoing requests": live(Requests(), traffic),
        f"Ray's, {tuned:.1f} ongoing (70% by day)": live(Requests(tuned), traffic),
    }
    rows = [_row(name, day, oracle) for name, day in days.items()]
    least = oracle.sum() / 3_600
    rows.append(("oracle", f"{least:.0f}", "1.00", "0.0", "0.0", "0.0", "0.00%", "-", "-"))
    report(
        "simulation",
        (
            "POLICY",
            "REPLICA-HOURS",
            "TO ORACLE",
            "WAIT P95 S",
            "P99 S",
            "WORST S",
            "REFUSED",
            "CHANGES",
            "SECONDS TO RUN",
        ),
        rows,
        oracle_at_70_percent=round(least / 0.7),
        most_replicas_needed=int(oracle.max()),
        replica_tokens_per_s=int(SPEED),
        start_s=START_S,
    )
    _draw(oracle, days)


def _row(name: str, day: Day, oracle: Curve) -> tuple[str, ...]:
    asked = day.accepted[-1] + day.refused
    return (
        name,
        f"{day.replicas.sum() / 3_600:.0f}",
        f"{day.replicas.sum() / oracle.sum():.2f}",
        f"{day.wait(95):.1f}",
        f"{day.wait(99):.1f}",
        f"{day.waits.max():.1f}",
        f"{day.refused / asked:.2%}",
        str(day.changes),
        f"{day.seconds:.1f}",
    )


def _draw(oracle: Curve, days: dict[str, Day]) -> None:
    figure, axes = line_plots.panels(len(days), 1, height=6.4)
    hours = np.arange(DAY_S)[::60] / 3_600
    needed = oracle.reshape(-1, 60).max(axis=1)
    for axis, (name, day) in zip(axes[:, 0], days.items(), strict=True):
        axis.fill_between(hours, needed, step="post", color="#dadce0", label="needed (oracle)")
        line_plots.steps(axis, hours, day.replicas[::60], "replicas", colour="ours")
        late = day.waits.reshape(-1, 60).max(axis=1) > 1
        axis.plot(
            hours[late], np.full(late.sum(), 1_060), "|", color="#d93025", label="waits over 1 s"
        )
        axis.set_title(name, fontsize=9, loc="left")
        axis.set_ylim(0, 1_110)
        axis.set_ylabel("replicas", fontsize=8)
    axes[0, 0].legend(fontsize=8, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1))
    axes[-1, 0].set_xlabel("hour of a synthetic day (simulated)", fontsize=8)
    axes[-1, 0].set_xlim(0, 24)
    line_plots.save(figure, "simulation")


if __name__ == "__main__":
    main()
