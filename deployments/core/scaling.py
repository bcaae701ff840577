"""How many replicas a model should have, from the tokens that wait for it and the tokens that arrive.

The policy tracks a moving average of the replicas needed. Small fluctuations average out; when the need
stays above the average for a few seconds, by more than noise explains, the average jumps to it. So a
step of the load causes one change, and noisy traffic few. The average never jumps down to a lull: it
falls only to what was needed over a minute. Replicas are removed late, and only after a time in which
fewer were enough without a break, so neither a lull nor traffic in short bursts costs a restart. The
clock is passed in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from deployments.core.lane import Lane

CONFIRM_AFTER_S = 3.0  # how long a need must be above the mean before the mean jumps to it
_TOLERANCE = 0.1  # relative differences below this change nothing
_SLACK = 1.1  # when replicas are removed, this many times the mean are left
_MEAN_S = 60.0  # time constant of the mean, about the start of a replica: what is shorter is noise
_VARIANCE_S = 300.0
_SIGMAS = 3.0  # how far noise goes
_FIRST_NOISE = 0.2  # of the replicas, before any is measured
_OFFLINE_BACKLOG_S = 0.1  # with this much offline work waiting, a replica never runs out of it


@dataclass(frozen=True)
class Goal:
    """What the replicas of a model should achieve, and within which bounds.

    Online work may use the share ``utilisation`` of a replica's speed. Online tokens that wait no
    longer than ``target_wait_s`` do not call for more replicas. Offline work that has waited without a
    break for ``offline_after_s`` adds replicas, up to ``offline_max_replicas`` in all. More replicas
    are requested once they have been needed for `CONFIRM_AFTER_S`, fewer once fewer have been enough
    for ``downscale_delay_s``, and none after ``downscale_to_zero_delay_s`` without work. The last two
    names are Ray Serve's.
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
    """The work for a model's replicas now, and what one of them can do.

    ``arriving`` and ``speed`` are in tokens/s, ``waiting`` in tokens. A replica takes ``start_s`` to
    start. A ``speed`` of 0 is unknown. ``calls`` is the number of calls that wait while no replica runs.
    """

    running: int
    speed: float = 0.0
    start_s: float = 0.0
    arriving: Mapping[Lane, float] = field(default_factory=_nothing)
    waiting: Mapping[Lane, float] = field(default_factory=_nothing)
    calls: float = 0.0

    @property
    def has_work(self) -> bool:
        """Whether any token waits or arrives."""
        return any(self.waiting.values()) or any(self.arriving.values())


@dataclass(frozen=True)
class State:
    """What one decision remembers for the next. Times are seconds of one clock.

    ``mean`` is the moving average of the need, as of ``mean_at``, and ``variance`` that of its noise.
    ``side`` is 1 or -1 while the need is above or below the mean by more than noise explains, else 0;
    it has been so since ``side_since``. Meanwhile both stay as they are, and ``mean_owed`` collects by
    how much the mean would have changed. Fewer replicas have been enough since ``below_since``.
    ``raised_at`` is when more replicas were requested last, until all of them run; ``lead_s`` is how
    long that took.
    """

    last_work: float | None = None
    mean: float | None = None
    mean_at: float = 0.0
    variance: float = 0.0
    side: int = 0
    side_since: float = 0.0
    mean_owed: float = 0.0
    below_since: float | None = None
    offline_since: float | None = None
    raised_at: float | None = None
    lead_s: float | None = None

    def changed(self, raised_at: float | None) -> State:
        """Returns the state after a change of the replicas, which does not change what the load needs."""
        return replace(self, below_since=None, offline_since=None, raised_at=raised_at)

    def restarted(self, last_work: float | None = None, raised_at: float | None = None) -> State:
        """Returns a state that has seen no load yet. Only ``lead_s`` is kept."""
        return State(last_work=last_work, raised_at=raised_at, lead_s=self.lead_s)


def decide(
    goal: Goal, demand: Demand, replicas: int, state: State, now: float
) -> tuple[int, State]:
    """Returns how many replicas to request, and the new state; ``replicas`` are requested now."""
    if replicas == 0:
        wanted = max(goal.min_replicas, min(1, math.ceil(demand.calls)))
        return wanted, state.restarted(raised_at=now if wanted else None)
    if demand.running == 0 or demand.speed <= 0:  # replicas that are starting are kept
        return _bounded(goal, replicas), state.restarted(now, state.raised_at)
    state = _observed(demand, replicas, state, now)
    if _idle(goal, state, now):
        return 0, state.restarted()
    needed = _needed(goal, demand, replicas, state, now)
    state = _followed(needed, replicas, state, now)
    wanted, state = _damped(goal, needed, replicas, state, now)
    wanted = _bounded(goal, wanted)
    if wanted == replicas:
        return wanted, state
    return wanted, state.changed(raised_at=now if wanted > replicas else None)


def _observed(demand: Demand, replicas: int, state: State, now: float) -> State:
    if state.raised_at is not None and demand.running >= replicas:
        state = replace(state, lead_s=now - state.raised_at, raised_at=None)
    if demand.has_work or state.last_work is None:
        state = replace(state, last_work=now)
    return replace(
        state, offline_since=_since(_offline_never_runs_out(demand), state.offline_since, now)
    )


def _needed(goal: Goal, demand: Demand, replicas: int, state: State, now: float) -> float:
    offline_lasts = _has_lasted(state.offline_since, goal.offline_after_s, now)
    lead_s = max(demand.start_s, state.lead_s or 0.0)
    return min(
        goal.max_replicas, need(goal, replace(demand, start_s=lead_s), replicas, offline_lasts)
    )


def need(goal: Goal, demand: Demand, replicas: int, offline_lasts: bool) -> float:
    """Returns how many replicas the demand needs, as a fraction. Only the bound for offline work applies.

    A further replica comes only after the delay and its start, so only what is left of the backlog by
    then counts. While replicas are starting, the backlog is left to them.
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
    """Returns the work that waits longer than it should, in seconds of one replica."""
    waiting_s = demand.waiting[Lane.ONLINE] / demand.speed
    return max(0.0, waiting_s - goal.target_wait_s * demand.running)


def _horizon_s(goal: Goal, demand: Demand) -> float:
    return goal.target_wait_s + 2 * (CONFIRM_AFTER_S + demand.start_s)


def _offline_never_runs_out(demand: Demand) -> bool:
    enough = _OFFLINE_BACKLOG_S * demand.speed * demand.running
    return demand.waiting[Lane.OFFLINE] >= enough


def _followed(needed: float, replicas: int, state: State, now: float) -> State:
    """Returns the state with the moving average of the need.

    It jumps to a need that stays above it. A shorter burst, and what is far below it, are added once
    they are over, or after `_MEAN_S`: the average counts them, but does not move while they last.
    """
    if state.mean is None:
        variance = (_FIRST_NOISE * replicas) ** 2
        state = replace(state, mean=float(replicas), variance=variance, mean_at=now)
    assert state.mean is not None
    mean, owed, side = state.mean, state.mean_owed, _side(needed, state)
    away, seconds = needed - mean, now - state.mean_at
    if side != state.side:
        mean, owed = mean + owed, 0.0
        state = replace(state, mean=mean, side=side, side_since=now)
    if side > 0 and _has_lasted(state.side_since, CONFIRM_AFTER_S, now):
        return replace(state, mean=needed, mean_at=now, mean_owed=0.0, side=0)
    owed += away * _weight(seconds, _MEAN_S)
    if side > 0 or (side < 0 and not _has_lasted(state.side_since, _MEAN_S, now)):
        return replace(state, mean_at=now, mean_owed=owed)
    learnt = 0.0 if side else (away**2 - state.variance) * _weight(seconds, _VARIANCE_S)
    variance = state.variance + learnt
    return replace(state, mean=mean + owed, mean_at=now, mean_owed=0.0, variance=variance)


def _side(needed: float, state: State) -> int:
    """Returns 1 or -1 for a need above or below the mean by more than noise explains, else 0."""
    assert state.mean is not None
    noise = _TOLERANCE * state.mean + _SIGMAS * math.sqrt(state.variance)
    return (needed > state.mean + noise) - (needed < state.mean - noise)


def _weight(seconds: float, time_constant_s: float) -> float:
    """Returns the weight of what was seen for this long in an exponential mean."""
    return -math.expm1(-seconds / time_constant_s)


def _damped(
    goal: Goal, needed: float, replicas: int, state: State, now: float
) -> tuple[int, State]:
    """Returns what the mean needs if that is above ``replicas``, or well below after a delay.

    Any second that needs about all of ``replicas`` starts the delay again.
    """
    assert state.mean is not None
    if state.mean > replicas * (1 + _TOLERANCE):
        return math.ceil(state.mean), state
    enough = state.mean * _SLACK
    fewer_do = math.ceil(needed * (1 + _TOLERANCE)) < replicas
    state = replace(state, below_since=_since(fewer_do, state.below_since, now))
    below = math.ceil(enough * (1 + _TOLERANCE)) < replicas
    if below and _has_lasted(state.below_since, goal.downscale_delay_s, now):
        return math.ceil(enough), state
    return replicas, state


def _since(holds: bool, since: float | None, now: float) -> float | None:
    if not holds:
        return None
    return now if since is None else since


def _has_lasted(since: float | None, seconds: float, now: float) -> bool:
    return since is not None and now - since >= seconds


def _idle(goal: Goal, state: State, now: float) -> bool:
    return goal.min_replicas == 0 and _has_lasted(
        state.last_work, goal.downscale_to_zero_delay_s, now
    )


def _bounded(goal: Goal, replicas: int) -> int:
    return max(1, goal.min_replicas, min(goal.max_replicas, replicas))
