"""Which of the models that can honour a request is the one: by expected latency and by size.

Ties go to the smaller model, then to the one that stands first. More load on a model never makes
it more likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.core.lane import Lane
from deployments.core.models.spec import Size
from deployments.core.routing.facts import (
    Aim,
    Candidate,
    Load,
    ModelState,
    RequestFacts,
    RoutingInputs,
)

_RANK = {Size.SMALL: 0, Size.MEDIUM: 1, Size.LARGE: 2}
_UNSIZED = 1  # between small and large, until the config says better
_UNMEASURED_TOKENS_PER_S = 1_000.0  # of one replica


@dataclass(frozen=True)
class CandidateCost:
    """A model that could answer: its place among the sizes, and the seconds it would take."""

    candidate: Candidate
    rank: int
    wait_s: float
    latency_s: float


def options(inputs: RoutingInputs, fitting: Sequence[Candidate]) -> list[CandidateCost]:
    """Returns what each of ``fitting`` would cost, in the order given."""
    found = [(candidate, inputs.load(candidate)) for candidate in fitting]
    facts = inputs.facts
    return [
        CandidateCost(c, rank(c), wait_s(facts, load), latency_s(facts, load)) for c, load in found
    ]


def pick(inputs: RoutingInputs, choice: Sequence[CandidateCost]) -> tuple[CandidateCost, str]:
    """Returns the option that serves the request's aim best, and why."""
    facts = inputs.facts
    if facts.max_latency_ms is None:
        if len(choice) == 1:
            return choice[0], "the only model that fits"
        return _by_aim(facts.aim or inputs.policy.aim, choice, inputs.policy.busy_s)
    in_time = [option for option in choice if option.latency_s * 1_000 <= facts.max_latency_ms]
    if not in_time:
        return _fastest(choice), "the fastest, none is within max_latency_ms"
    chosen, why = _by_aim(facts.aim or Aim.BEST, in_time, inputs.policy.busy_s)
    return chosen, f"{why} within max_latency_ms"


def wait_s(facts: RequestFacts, load: Load) -> float:
    """Returns the seconds until a new request's turn: what waits before it, and a start."""
    before = load.waiting.get(Lane.ONLINE, 0)
    if facts.lane is Lane.OFFLINE:
        before += load.waiting.get(Lane.OFFLINE, 0)
    start = load.start_s if load.state in (ModelState.COLD, ModelState.STARTING) else 0.0
    return start + before / _speed(load)


def latency_s(facts: RequestFacts, load: Load) -> float:
    """Returns the expected seconds to the answer: wait, start and forward passes.

    All replicas work off what waits, and one of them computes the request; the longest text has one
    of its streams, unless the others are idle.
    """
    streams = load.streams if any(load.waiting.values()) else 1
    tokens = max(facts.tokens, facts.largest * streams)
    return wait_s(facts, load) + tokens / _speed(load) * max(1, load.replicas)


def rank(candidate: Candidate) -> int:
    """Returns a size as a number, larger for larger models."""
    return _UNSIZED if candidate.size is None else _RANK[candidate.size]


def _by_aim(aim: Aim, choice: Sequence[CandidateCost], busy_s: float) -> tuple[CandidateCost, str]:
    if aim is Aim.BEST:  # `max` and `min` take the first of equals
        return max(choice, key=lambda option: option.rank), "the largest"
    if aim is Aim.FAST:
        return _fastest(choice), "the fastest"
    idle = [option for option in choice if option.wait_s <= busy_s]
    if not idle:
        return _fastest(choice), "the fastest, all are busy"
    chosen = min(idle, key=lambda option: option.rank)
    smallest = min(option.rank for option in choice)
    return chosen, "the smallest" if chosen.rank == smallest else "the smallest that is not busy"


def _fastest(choice: Sequence[CandidateCost]) -> CandidateCost:
    return min(choice, key=lambda option: (option.latency_s, option.rank))


def _speed(load: Load) -> float:
    return max(1.0, load.tokens_per_s or _UNMEASURED_TOKENS_PER_S * max(1, load.replicas))
