"""The autoscaling policy that Ray Serve's controller calls: turns its view into a decision of
`core/scaling.py`.

Serve calls it in the controller, ten times a second; replicas report once a second. If no replica runs
and a call waits, Serve starts the first one without calling the policy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from ray.serve.config import AutoscalingContext

from deployments.core.lane import Lane
from deployments.core.scaling import Demand, Goal, State, decide

log = logging.getLogger("ray.serve")

POLICY = "deployments.replica.autoscaling:TokenPolicy"
REPORT_EVERY_S = 1.0
LOOK_BACK_S = 5.0
_RECENT_S = 2.5  # three reports
_STATE = "scaling"
_DECIDED = "decided"


class Point(Protocol):
    """One value that a replica reported, and when."""

    timestamp: float
    value: float


Series = Mapping[Any, Sequence[Point]]


def report(
    arrived: Mapping[Lane, float],
    waiting: Mapping[Lane, float],
    tokens_per_s: float,
    start_s: float,
) -> dict[str, float]:
    """Returns a replica's report: all tokens that ever arrived, waiting tokens, speed, start time."""
    totals = {f"arrived_{lane}": float(arrived[lane]) for lane in Lane}
    backlog = {f"waiting_{lane}": float(waiting[lane]) for lane in Lane}
    return {**totals, **backlog, "tokens_per_s": tokens_per_s, "start_s": start_s}


class TokenPolicy:
    """The policy of one model. Serve creates it with the fields of `Goal`.

    It has a monotonic ``clock`` of its own, because ``current_time`` in Serve's context is the wall
    clock, which can be set back or forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, **goal: Any) -> None:
        """Raises TypeError for a field that is not `Goal`'s."""
        self._goal, self._clock = Goal(**goal), clock

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """Returns the wanted number of replicas, and the state that Serve passes to the next call."""
        now, saved = self._clock(), context.policy_state
        replicas = context.target_num_replicas
        if now < saved.get(_DECIDED, now):  # the state is of another machine's clock
            saved = {}
        if now - saved.get(_DECIDED, float("-inf")) < REPORT_EVERY_S:
            return replicas, dict(saved)
        demand = demand_of(context)
        wanted, state = decide(self._goal, demand, replicas, saved.get(_STATE, State()), now)
        if wanted != replicas:
            log.info(
                "%s: from %d to %d replicas: %s", context.deployment_name, replicas, wanted, demand
            )
        return wanted, {_STATE: state, _DECIDED: now}


def demand_of(context: AutoscalingContext) -> Demand:
    """Returns the demand that the replicas report; without replicas, the calls that wait for one."""
    reported: Mapping[str, Series] = context.raw_metrics or {}
    return Demand(
        running=context.current_num_replicas,
        speed=_mean(reported.get("tokens_per_s", {})),
        start_s=_mean(reported.get("start_s", {})),
        arriving={lane: _rate(reported.get(f"arrived_{lane}", {})) for lane in Lane},
        waiting={lane: _level(reported.get(f"waiting_{lane}", {})) for lane in Lane},
        calls=context.total_num_requests if context.current_num_replicas == 0 else 0.0,
    )


def _mean(series: Series) -> float:
    latest = [points[-1].value for points in series.values() if points]
    return sum(latest) / len(latest) if latest else 0.0


def _level(series: Series) -> float:
    """Returns the sum over the replicas, each averaged over its last reports."""
    recent = [_recent(points) for points in series.values() if points]
    return sum(sum(p.value for p in points) / len(points) for points in recent)


def _rate(series: Series) -> float:
    """Returns how much the counters of all replicas grow together, per second."""
    return sum(_growth(_recent(points)) for points in series.values() if points)


def _growth(points: Sequence[Point]) -> float:
    seconds = points[-1].timestamp - points[0].timestamp
    return (points[-1].value - points[0].value) / seconds if seconds > 0 else 0.0


def _recent(points: Sequence[Point]) -> Sequence[Point]:
    return [p for p in points if points[-1].timestamp - p.timestamp < _RECENT_S]
