"""The plan of online traffic: a simulation of recorded traffic, with the service's own autoscaling."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.plan.arguments import START_S
from cluster.plan.errors import PlanError
from cluster.plan.picture import Panel, sparkline, svg
from cluster.plan.progress import SimulationProgress
from cluster.plan.speed import ReplicaSpeed, replica_speed
from cluster.plan.traces import Trace, read_trace
from cluster.service.tables import table
from deployments.core.planning.measured import ROUTER_CPU_S
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

_COLUMNS = 72
_PEAK_FACTOR = 1.5  # replicas at most, if none are given: half as many again as the peak needs
_PASS_S = 0.25  # assumed for Ray's default policy, unless a report of `embedfleet bench` has it
_ORACLE, _RAY = "oracle", "Ray Serve's default"
_HEADER = (
    "POLICY",
    "REPLICA-HOURS",
    "TO ORACLE",
    "COST",
    "MOST",
    "CHANGES",
    "WAIT P50 S",
    "P99 S",
    "REFUSED",
)


@dataclass(frozen=True)
class Simulated:
    """The figures of one policy. ``most`` is the highest number of replicas."""

    policy: str
    replica_hours: float
    to_oracle: float | None
    cost: float | None
    most: int
    changes: int
    wait_p50_s: float
    wait_p99_s: float
    refused_share: float

    def as_row(self) -> tuple[object, ...]:
        """Returns the line of the table."""
        return (
            self.policy,
            f"{self.replica_hours:,.2f}",
            None if self.to_oracle is None else f"{self.to_oracle:.2f}",
            None if self.cost is None else f"{self.cost:,.2f}",
            self.most,
            self.changes,
            f"{self.wait_p50_s:.1f}",
            f"{self.wait_p99_s:.1f}",
            f"{self.refused_share:.2%}",
        )


@dataclass(frozen=True)
class TracePlan:
    """The plan of recorded traffic. ``replicas`` has a curve for each policy, the oracle's first."""

    trace: str
    seconds: int
    tokens: int
    peak_tokens_per_s: float
    tokens_per_s: float
    speed_source: str
    start_s: float
    min_replicas: int
    max_replicas: int
    router_cores: int
    policies: tuple[Simulated, ...]
    notes: tuple[str, ...]
    replicas: dict[str, Curve]

    def as_dict(self) -> dict[str, Any]:
        """Returns the plan for JSON, with the replicas of every minute (the most in it)."""
        curves = {name: _by_minute(curve) for name, curve in self.replicas.items()}
        return {**asdict(self), "replicas": curves}

    def as_text(self) -> str:
        """Returns the plan for a terminal."""
        lines = [
            f"{self.trace}: {self.seconds / 3_600:,.1f} hours, {self.tokens:,} tokens, at most "
            f"{self.peak_tokens_per_s:,.0f} tokens/s",
            f"one replica encodes {self.tokens_per_s:,.0f} tokens/s ({self.speed_source}) and takes "
            f"{self.start_s:g} s to start; {self.min_replicas:,} to {self.max_replicas:,} replicas",
            "",
            *self._sparklines(),
            "",
            table(_HEADER, [simulated.as_row() for simulated in self.policies]),
            "",
            "Waits are in the lane, before the forward pass. Routers need "
            f"{self.router_cores:,} CPU core{'' if self.router_cores == 1 else 's'} at the peak.",
        ]
        return "\n".join([*lines, *self.notes])

    def _sparklines(self) -> Iterator[str]:
        most = max(float(curve.max()) for curve in self.replicas.values())
        width = max(map(len, self.replicas))
        yield f"replicas over time; a full block is {most:,.0f}"
        for name, curve in self.replicas.items():
            yield f"{name.ljust(width)} |{sparkline(curve, most, _COLUMNS)}|"


def trace_plan(args: argparse.Namespace) -> TracePlan:
    """Simulates a trace, and draws it if a picture is wanted. Raises PlanError."""
    picture = None if args.picture is None else _svg_file(args.picture)
    trace = read_trace(Path(args.trace), args.tokens_per_request)
    request = float(trace.traffic.tokens_per_request.mean())
    speed = replica_speed(args, None if math.isnan(request) else request)
    simulation = _Simulation(args, trace.traffic, speed)
    progress = SimulationProgress(sys.stderr, sys.stderr.isatty())
    runs = {
        name: simulation.run(policy, goal, partial(progress.show, name))
        for name, policy, goal in simulation.policies()
    }
    progress.end()
    plan = simulation.planned(trace, runs)
    if picture is not None:
        _draw(picture, plan.replicas[_ORACLE], runs)
    return plan


class _Simulation:
    """One simulation: the traffic, the replicas and their bounds."""

    def __init__(self, args: argparse.Namespace, traffic: Traffic, speed: ReplicaSpeed) -> None:
        self._args, self._traffic, self._speed = args, traffic, speed
        self._start_s = START_S if args.start_s is None else args.start_s
        self._least = 1 if args.min_replicas is None else args.min_replicas
        self._utilisations = tuple(dict.fromkeys(args.utilisation or [Goal(1, 1).utilisation]))
        peak = float(traffic.tokens_per_s.max()) / speed.tokens_per_s / min(self._utilisations)
        self._most = args.max_replicas or max(1, self._least, math.ceil(_PEAK_FACTOR * peak))
        if self._least > self._most:
            raise PlanError(
                f"--min-replicas {self._least} is above --max-replicas {self._most}: lower it"
            )
        self._knows_requests = not math.isnan(float(traffic.tokens_per_request[0]))
        self._pass_s = speed.pass_s or _PASS_S

    def policies(self) -> Iterator[tuple[str, Policy, Goal]]:
        """Yields the name and the policy of each simulation, and the goal with which its fleet begins."""
        for utilisation in self._utilisations:
            goal = Goal(self._least, self._most, utilisation=utilisation)
            yield f"utilisation {utilisation:g}", OwnPolicy(goal), goal
        if self._knows_requests:
            from cluster.plan.ray_default import RayPolicy

            requests = self._traffic.tokens_per_request
            policy = RayPolicy(self._least, self._most, requests, self._pass_s)
            yield _RAY, policy, Goal(self._least, self._most)

    def run(self, policy: Policy, goal: Goal, watch: Callable[[float], None]) -> Run:
        """Returns what happens under a policy."""
        fleet = fleet_for(self._traffic, self._speed.tokens_per_s, self._start_s, goal)
        return simulate(policy, self._traffic, fleet, watch)

    def planned(self, trace: Trace, runs: dict[str, Run]) -> TracePlan:
        """Returns the plan."""
        load, speed = self._traffic.tokens_per_s, self._speed.tokens_per_s
        best = oracle_run(self._traffic, speed, self._least)
        return TracePlan(
            trace=f"{self._args.trace} ({trace.reading})",
            seconds=len(load),
            tokens=round(float(load.sum())),
            peak_tokens_per_s=float(load.max()),
            tokens_per_s=speed,
            speed_source=self._speed.source,
            start_s=self._start_s,
            min_replicas=self._least,
            max_replicas=self._most,
            router_cores=math.ceil(float(load.max()) / 1e6 * ROUTER_CPU_S),
            policies=tuple(self._figures(n, r, best) for n, r in {_ORACLE: best, **runs}.items()),
            notes=tuple(self._notes()),
            replicas={name: run.replicas for name, run in {_ORACLE: best, **runs}.items()},
        )

    def _figures(self, name: str, run: Run, best: Run) -> Simulated:
        price = self._args.price_per_replica_hour
        return Simulated(
            policy=name,
            replica_hours=run.replica_hours,
            to_oracle=run.replica_hours / best.replica_hours if best.replica_hours else None,
            cost=None if price is None else price * run.replica_hours,
            most=int(run.replicas.max()),
            changes=run.changes,
            wait_p50_s=run.wait(50),
            wait_p99_s=run.wait(99),
            refused_share=run.refused_share,
        )

    def _notes(self) -> Iterator[str]:
        if not self._knows_requests:
            yield f"{_RAY} policy counts requests and is left out: pass --tokens-per-request"
        elif self._speed.pass_s is None:
            yield f"{_RAY} policy is simulated as if a forward pass took {_PASS_S:g} s"


def _svg_file(name: str) -> Path:
    file = Path(name)
    if file.suffix.lower() != ".svg":
        raise PlanError(
            f"--picture {name}: the picture is an SVG; name it {file.stem or 'plan'}.svg"
        )
    return file


def _draw(file: Path, needed: Curve, runs: dict[str, Run]) -> None:
    panels = [Panel(name, run.replicas, run.waits) for name, run in runs.items()]
    try:
        file.write_text(svg(needed, panels), encoding="utf-8")
    except OSError as error:
        raise PlanError(f"--picture {file} cannot be written: {error}") from error


def _by_minute(curve: Curve) -> Sequence[int]:
    return [int(curve[start : start + 60].max()) for start in range(0, len(curve), 60)]
