"""Autoscaling on a day of synthetic traffic, with up to 1,000 simulated replicas.

    python -m benchmarks.simulation [--held-out]

Compares the service's own policy (`deployments/core/scaling.py`) with Ray Serve's default policy and its
delays, in the simulation that `embedfleet plan --trace` runs. The oracle knows the day in advance, has
the replicas of each second ready in time, and uses them to the full. With ``--held-out``, it runs other
days as well, with a seed that was not looked at while the policy was chosen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.common.charts import ALERT, OURS, SHADE, draw_lines, steps
from benchmarks.common.reporting import parser, report
from cluster.plan.ray_default import RayPolicy
from deployments.core.planning.simulation import (
    Curve,
    OwnPolicy,
    Policy,
    Run,
    Traffic,
    fleet_for,
    oracle_run,
    simulate,
)
from deployments.core.scaling import Goal
from testing.traffics import DAY_S, HELD_OUT, a_day

SPEED = 20_000.0  # tokens/s of a replica
START_S = 60.0
GOAL = Goal(1, 1_000)
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
    "REFUSED",
    "CHANGES",
)
SEED = 107  # of the days that are held out: not the 7 with which variants were compared


def ray(traffic: Traffic, target: float = 2.0) -> Policy:
    """Returns Ray Serve's default policy with ``target`` ongoing requests a replica."""
    return RayPolicy(
        GOAL.min_replicas, GOAL.max_replicas, traffic.tokens_per_request, PASS_S, target
    )


def run(policy: Policy, traffic: Traffic) -> Run:
    """Runs a fleet through the traffic."""
    return simulate(policy, traffic, fleet_for(traffic, SPEED, START_S, GOAL))


def main() -> None:
    """Prints the tables and draws the day."""
    arguments = parser("simulation", __doc__)
    arguments.add_argument("--held-out", action="store_true", help="other days as well")
    traffic = a_day()
    if arguments.parse_args().held_out:
        report("simulation-held-out", ("DAY", *HEADER), held_out())
    tuned = 1.5 * PASS_S * 0.7 * SPEED / 300  # ongoing requests at 70%, for requests by day
    started = time.perf_counter()
    runs = {
        OURS_NAME: run(OwnPolicy(GOAL), traffic),
        RAY_NAME: run(ray(traffic), traffic),
        f"Ray's, {tuned:.1f} ongoing (70% by day)": run(ray(traffic, tuned), traffic),
    }
    seconds = time.perf_counter() - started
    oracle = traffic.oracle(SPEED)
    report(
        "simulation",
        HEADER,
        rows(traffic, runs),
        oracle_at_70_percent=round(oracle.sum() / 3_600 / 0.7),
        most_replicas_needed=int(oracle.max()),
        replica_tokens_per_s=int(SPEED),
        start_s=START_S,
        seconds_to_run=round(seconds, 1),
    )
    draw_lines("simulation", len(runs), 1, 6.4, lambda axes: _draw(axes[:, 0], oracle, runs))


def held_out() -> list[Sequence[str]]:
    """Returns the rows of the other days."""
    table: list[Sequence[str]] = []
    for name, day in HELD_OUT.items():
        traffic = day(SEED)
        runs = {OURS_NAME: run(OwnPolicy(GOAL), traffic), RAY_NAME: run(ray(traffic), traffic)}
        table += [(name, *row) for row in rows(traffic, runs)]
    return table


def rows(traffic: Traffic, runs: dict[str, Run]) -> list[Sequence[str]]:
    """Returns a row for each policy, and the oracle's."""
    oracle = oracle_run(traffic, SPEED)
    ray_hours = runs[RAY_NAME].replica_hours
    return [
        (
            name,
            f"{one.replica_hours:.0f}",
            f"{one.replica_hours / oracle.replica_hours:.2f}",
            f"{one.replica_hours / ray_hours:.2f}",
            f"{one.wait(95):.1f}",
            f"{one.wait(99):.1f}",
            f"{one.waits.max():.1f}",
            f"{one.refused_share:.2%}",
            str(one.changes),
        )
        for name, one in {**runs, "oracle": oracle}.items()
    ]


def _draw(axes: Any, oracle: Curve, runs: dict[str, Run]) -> None:
    hours = np.arange(DAY_S)[::60] / 3_600
    needed = oracle.reshape(-1, 60).max(axis=1)
    for axis, (name, one) in zip(axes, runs.items(), strict=True):
        axis.fill_between(hours, needed, step="post", color=SHADE, label="needed (oracle)")
        steps(axis, hours, one.replicas[::60], "replicas", OURS)
        late = one.waits.reshape(-1, 60).max(axis=1) > 1
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
