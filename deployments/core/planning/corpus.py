"""How many replicas a corpus needs for a deadline or a budget, and what it then takes and costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

START_SHARE = 0.1  # of what a budget pays for may go into starting replicas
_ROUNDING = 1e-9  # so that a deadline that comes from a plan gives that plan again


@dataclass(frozen=True)
class Job:
    """A corpus and the replicas that encode it.

    ``tokens`` is the whole corpus, ``tokens_per_s`` what one replica encodes when it has work at hand.
    A job reaches the share ``efficiency`` of that. ``start_s`` passes before any replica encodes, and is
    paid for.
    """

    tokens: float
    tokens_per_s: float
    efficiency: float
    start_s: float

    @property
    def work_s(self) -> float:
        """The seconds that one replica would encode."""
        return self.tokens / (self.tokens_per_s * self.efficiency)

    def seconds(self, replicas: int) -> float:
        """Returns how long the job takes with this many replicas, from its start to its end."""
        return self.start_s + self.work_s / replicas

    def replica_hours(self, replicas: int) -> float:
        """Returns what is paid for: every replica from the start to the end."""
        return replicas * self.seconds(replicas) / 3_600


class Infeasible(ValueError):
    """No number of replicas meets the deadline or the budget.

    ``limit`` is the smallest deadline, in seconds, or budget, in replica-hours, that can be met.
    """

    def __init__(self, message: str, limit: float) -> None:
        super().__init__(message, limit)
        self.limit = limit

    def __str__(self) -> str:
        return str(self.args[0])


def replicas_for_deadline(job: Job, seconds: float) -> int:
    """Returns the fewest replicas that finish in time. Raises Infeasible if starting takes longer."""
    if seconds <= job.start_s:
        raise Infeasible("the replicas would still be starting", job.start_s)
    return max(1, math.ceil(job.work_s / (seconds - job.start_s) * (1 - _ROUNDING)))


def replicas_for_budget(job: Job, replica_hours: float) -> int:
    """Returns the most replicas that the budget pays for, but no more than are worth their start.

    That is, starting them takes at most `START_SHARE` of the replica-hours (one replica always may), and
    there is at most one for each second of work. Raises Infeasible if one replica costs more.
    """
    least = job.replica_hours(1)
    if replica_hours < least * (1 - _ROUNDING):
        raise Infeasible("one replica costs more", least)
    most = math.ceil(job.work_s)
    worth_s = job.work_s * START_SHARE / (1 - START_SHARE)  # of starts, which are then that share
    spare_s = min(worth_s, replica_hours * 3_600 * (1 + _ROUNDING) - job.work_s)
    if spare_s < most * job.start_s:
        most = math.floor(spare_s / job.start_s)
    return max(1, most)
