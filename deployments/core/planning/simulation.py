"""A simulation of autoscaling: traffic, replicas as a fluid, and a policy that decides every second.

A simulated request waits only for other work, so waits are those in the lane; a forward pass comes on
top. The oracle knows the traffic in advance, has the replicas of each second ready in time, and uses them
to the full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deployments.core.lane import Lane
from deployments.core.planning.fluid import Fluid
from deployments.core.scaling import Goal, State, decide

Curve = npt.NDArray[np.float64]
Policy = Callable[[Fluid], int]  # how many replicas to have, once a second


@dataclass(frozen=True)
class Traffic:
    """Online traffic, second by second: tokens/s, and the mean tokens of a request."""

    tokens_per_s: Curve
    tokens_per_request: Curve

    def __len__(self) -> int:
        return len(self.tokens_per_s)

    def oracle(self, speed: float, min_replicas: int = 0) -> Curve:
        """Returns the replicas of ``speed`` tokens/s that each second needs if used to the full."""
        return np.maximum(min_replicas, np.ceil(self.tokens_per_s / speed))


@dataclass(frozen=True)
class Run:
    """What happened under a policy: replicas paid for, and tokens accepted and served, second by second.

    ``accepted`` and ``served`` are sums from the start. Work that ends within a second counts as done at
    its end, and what still waits at the very end as done then.
    """

    replicas: Curve
    accepted: Curve
    served: Curve
    refused: float

    @property
    def waits(self) -> Curve:
        """How long, in seconds, the last token waits that comes in each second."""
        clock = np.arange(len(self.served), dtype=float)
        # the first second by whose end the token is served, and the part of it that this takes
        done = np.minimum(np.searchsorted(self.served, self.accepted), len(clock) - 1)
        before = np.where(done > 0, self.served[done - 1], 0.0)
        left, pace = self.accepted - before, self.served[done] - before
        part = np.divide(left, pace, out=np.ones_like(left), where=pace > left)
        waits: Curve = np.maximum(0.0, done - 1 + part - clock)
        return waits

    def wait(self, percent: float) -> float:
        """Returns the wait in seconds that ``percent`` of the accepted tokens did not exceed."""
        waits = self.waits
        order = np.argsort(waits)
        tokens = np.diff(self.accepted, prepend=0.0)[order].cumsum()
        place = np.searchsorted(tokens, percent / 100 * tokens[-1])
        return float(waits[order][min(place, len(order) - 1)])

    @property
    def replica_hours(self) -> float:
        """What is paid for."""
        return float(self.replicas.sum()) / 3_600

    @property
    def refused_share(self) -> float:
        """The refused tokens' share of all."""
        offered = float(self.accepted[-1]) + self.refused
        return self.refused / offered if offered else 0.0

    @property
    def changes(self) -> int:
        """How often the number of replicas changed."""
        return int(np.count_nonzero(np.diff(self.replicas)))


def oracle_run(traffic: Traffic, speed: float, min_replicas: int = 0) -> Run:
    """Returns what the oracle pays for, with replicas of ``speed`` tokens/s: nothing waits."""
    tokens = traffic.tokens_per_s.cumsum()
    return Run(traffic.oracle(speed, min_replicas), accepted=tokens, served=tokens, refused=0.0)


class OwnPolicy:
    """The service's own policy (`core/scaling.py`)."""

    def __init__(self, goal: Goal) -> None:
        self._goal, self._state = goal, State()

    def __call__(self, fleet: Fluid) -> int:
        """Returns how many replicas to have."""
        wanted, self._state = decide(
            self._goal, fleet.demand(), fleet.replicas, self._state, fleet.now
        )
        return wanted


def fleet_for(traffic: Traffic, speed: float, start_s: float, goal: Goal) -> Fluid:
    """Returns a fleet of as many running replicas as the first second needs, within the goal's bounds."""
    needed = int(traffic.tokens_per_s[0] / speed / goal.utilisation) + 1
    if goal.min_replicas == 0 and not traffic.tokens_per_s[0]:
        needed = 0
    return Fluid(speed, start_s, running=max(goal.min_replicas, min(goal.max_replicas, needed)))


def simulate(
    policy: Policy,
    traffic: Traffic,
    fleet: Fluid,
    watch: Callable[[float], None] | None = None,
) -> Run:
    """Runs a fleet through the traffic under a policy. Changes ``fleet``.

    Calls ``watch`` for every hour of the traffic with the share that is done, from 0 to 1.
    """
    replicas, accepted, served = np.zeros((3, len(traffic)))
    for second, tokens in enumerate(traffic.tokens_per_s.tolist()):
        if watch and second % 3_600 == 0:
            watch(second / len(traffic))
        fleet.scale(policy(fleet))
        fleet.step({Lane.ONLINE: tokens, Lane.OFFLINE: 0.0})
        replicas[second] = fleet.replicas
        served[second] = fleet.served[Lane.ONLINE]
        accepted[second] = served[second] + fleet.waiting[Lane.ONLINE]
    return Run(replicas, accepted, served, fleet.refused)
