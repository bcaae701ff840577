"""How many replicas a model should have, from the tokens that wait for it and arrive.

Up at once, down late: a short confirmation lets the measured rates settle, so that one step of load
is one change; a long one keeps a lull from costing a start. The clock is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from deployments.core.lane import Lane

CONFIRM_S = 3.0  # of need, before more replicas are asked for
_TOLERANCE = 0.1  # a need this close to what there is changes nothing
_OFFLINE_BACKLOG_S = 0.1  # offline work of a replica that counts as never running out


@dataclass(frozen=True)
class Goal:
    """What the replicas of a model are to achieve, and within which bounds.

    ``utilisation`` is the share of a replica's speed that online work may use; online tokens that
    wait no longer than ``target_wait_s`` are no reason for more. Offline work that has waited without
    a break for ``offline_after_s`` adds replicas up to ``offline_max_replicas`` in all. More
    replicas are asked for after `CONFIRM_S` of need, fewer after ``downscale_delay_s`` of less,
    none after ``downscale_to_zero_delay_s`` without work: the last two as Ray Serve calls them.
    """

    min_replicas: int
    max_replicas: int
    target_wait_s: float = 1.0
    utilisation: float = 0.7
    offline_max_replicas: int | None = None
    offline_after_s: float = 10.0
    downscale_delay_s: float = 60.0
    downscale_to_zero_delay_s: float = 300.0


def _nothing() -> Mapping[Lane, float]:
    return dict.fromkeys(Lane, 0.0)


@dataclass(frozen=True)
class Demand:
    """What is asked of a model's replicas now, and what one of them can do.

    ``arriving`` and ``speed`` are tokens/s, ``waiting`` tokens, ``start_s`` how long a replica takes
    to start; a ``speed`` of 0 is not known. ``calls`` are those that wait where no replica runs.
    """

    running: int
    speed: float = 0.0
    start_s: float = 0.0
    arriving: Mapping[Lane, float] = field(default_factory=_nothing)
    waiting: Mapping[Lane, float] = field(default_factory=_nothing)
    calls: float = 0.0

    @property
    def works(self) -> bool:
        """Whether any token waits or arrives."""
        return any(self.waiting.values()) or any(self.arriving.values())


@dataclass(frozen=True)
class State:
    """What is remembered from one decision to the next; times are seconds of one clock.

    ``eased`` is the sum of ``looks`` needs seen in the second half of the time since ``below_since``;
    ``lead_s`` is how long the replicas took to come that were asked for last, at ``raised``.
    """

    worked: float | None = None
    above_since: float | None = None
    below_since: float | None = None
    offline_since: float | None = None
    eased: float = 0.0
    looks: int = 0
    raised: float | None = None
    lead_s: float | None = None

    def anew(self, worked: float | None = None, raised: float | None = None) -> State:
        """Returns a state that watches from now on; how long replicas take to come is kept."""
        return State(worked=worked, raised=raised, lead_s=self.lead_s)


def decide(
    goal: Goal, demand: Demand, replicas: int, state: State, now: float
) -> tuple[int, State]:
    """Returns how many replicas to ask for, ``replicas`` being asked for now, and the new state."""
    if replicas == 0:
        wanted = max(goal.min_replicas, min(1, math.ceil(demand.calls)))
        return wanted, state.anew(raised=now if wanted else None)
    if demand.running == 0 or demand.speed <= 0:  # what starts is not given up
        return _bounded(goal, replicas), state.anew(worked=now, raised=state.raised)
    state = _observed(demand, replicas, state, now)
    if _idle(goal, state, now):
        return 0, state.anew()
    wanted, state = _damped(goal, _needed(goal, demand, replicas, state, now), replicas, state, now)
    wanted = _bounded(goal, wanted)
    if wanted == replicas:
        return wanted, state
    raised = now if wanted > replicas else None
    return wanted, state.anew(worked=state.worked, raised=raised)


def _observed(demand: Demand, replicas: int, state: State, now: float) -> State:
    if state.raised is not None and demand.running >= replicas:
        state = replace(state, lead_s=now - state.raised, raised=None)
    if demand.works or state.worked is None:
        state = replace(state, worked=now)
    return replace(state, offline_since=_since(_is_saturated(demand), state.offline_since, now))


def _needed(goal: Goal, demand: Demand, replicas: int, state: State, now: float) -> float:
    lasts = _lasts(state.offline_since, goal.offline_after_s, now)
    lead_s = max(demand.start_s, state.lead_s or 0.0)
    return min(goal.max_replicas, need(goal, replace(demand, start_s=lead_s), replicas, lasts))


def need(goal: Goal, demand: Demand, replicas: int, offline_lasts: bool) -> float:
    """Returns the replicas that the demand is worth, as a fraction, within offline's bound only.

    A backlog counts by what is left of it for a further replica, which comes only after
    confirmation and start. While replicas start, it is theirs to work off.
    """
    starting = demand.running < replicas
    online = demand.arriving[Lane.ONLINE] / demand.speed
    shared = online + demand.arriving[Lane.OFFLINE] / demand.speed
    if offline_lasts:
        shared = max(shared, replicas if starting else 2.0 * replicas)
    backlog = 0.0 if starting else _excess_s(goal, demand) / _horizon_s(goal, demand)
    cap = goal.max_replicas if goal.offline_max_replicas is None else goal.offline_max_replicas
    return max(online / goal.utilisation, online + backlog, min(cap, shared))


def _excess_s(goal: Goal, demand: Demand) -> float:
    """Seconds of one replica's work that wait for longer than they should."""
    waiting_s = demand.waiting[Lane.ONLINE] / demand.speed
    return max(0.0, waiting_s - goal.target_wait_s * demand.running)


def _horizon_s(goal: Goal, demand: Demand) -> float:
    return goal.target_wait_s + 2 * (CONFIRM_S + demand.start_s)


def _is_saturated(demand: Demand) -> bool:
    enough = _OFFLINE_BACKLOG_S * demand.speed * demand.running
    return demand.waiting[Lane.OFFLINE] >= enough


def _damped(
    goal: Goal, needed: float, replicas: int, state: State, now: float
) -> tuple[int, State]:
    """Follows the need once it has been above, or well below, for long enough."""
    above = needed > replicas * (1 + _TOLERANCE)
    below = _with_slack(needed) < replicas
    since = _since(below, state.below_since, now)
    late = _lasts(since, goal.downscale_delay_s / 2, now)
    state = replace(
        state,
        above_since=_since(above, state.above_since, now),
        below_since=since,
        eased=state.eased + needed if late else 0.0,
        looks=state.looks + 1 if late else 0,
    )
    if _lasts(state.above_since, CONFIRM_S, now):
        return math.ceil(needed), state
    if _lasts(since, goal.downscale_delay_s, now):
        return _with_slack(state.eased / state.looks), state
    return replicas, state


def _with_slack(needed: float) -> int:
    return math.ceil(needed * (1 + _TOLERANCE))


def _since(holds: bool, since: float | None, now: float) -> float | None:
    if not holds:
        return None
    return now if since is None else since


def _lasts(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since >= seconds


def _idle(goal: Goal, state: State, now: float) -> bool:
    return goal.min_replicas == 0 and _lasts(state.worked, goal.downscale_to_zero_delay_s, now)


def _bounded(goal: Goal, replicas: int) -> int:
    return max(1, goal.min_replicas, min(goal.max_replicas, replicas))
