"""One model's replicas, simulated: tokens arrive, wait in two lanes, and are computed like a fluid.

It has no clock of its own, and nothing sleeps. A replica takes ``start_s`` to start and stops at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from deployments.core.lane import Lane
from deployments.core.scaling import Demand


@dataclass
class Fluid:
    """Replicas of one model; ``speed`` is that of one replica, in tokens/s. Times are in seconds.

    A lane refuses work that would wait for more than ``most_wait_s``, unless no replica runs.
    """

    speed: float
    start_s: float
    running: int = 1
    most_wait_s: float = 10.0
    now: float = 0.0
    waiting: dict[Lane, float] = field(default_factory=lambda: dict.fromkeys(Lane, 0.0))
    served: dict[Lane, float] = field(default_factory=lambda: dict.fromkeys(Lane, 0.0))
    refused: float = 0.0
    _starting: list[float] = field(default_factory=list)  # when each is ready
    _arriving: dict[Lane, float] = field(default_factory=lambda: dict.fromkeys(Lane, 0.0))

    @property
    def replicas(self) -> int:
        """Replicas that run or start, and therefore cost money."""
        return self.running + len(self._starting)

    def scale(self, wanted: int) -> None:
        """Starts or stops replicas, the newest first, until ``wanted`` are left."""
        while self.replicas < wanted:
            self._starting.append(self.now + self.start_s)
        while self.replicas > wanted:
            if self._starting:
                self._starting.pop()
            else:
                self.running -= 1

    def step(self, offered: Mapping[Lane, float], seconds: float = 1.0) -> None:
        """Advances the clock; ``offered`` holds the tokens/s that arrive in each lane."""
        self.now += seconds
        ready = [at for at in self._starting if at <= self.now]
        self._starting = [at for at in self._starting if at > self.now]
        self.running += len(ready)
        self._arriving = dict(offered)
        power = self.speed * self.running * seconds
        for lane in Lane:  # online first
            self._admit(lane, offered[lane] * seconds, power)
            done = min(power, self.waiting[lane])
            self.waiting[lane] -= done
            self.served[lane] += done
            power -= done

    def _admit(self, lane: Lane, tokens: float, power: float) -> None:
        room = float("inf")
        if self.running:
            room = self.most_wait_s * self.speed * self.running + power - self.waiting[lane]
        taken = min(tokens, max(0.0, room))
        self.waiting[lane] += taken
        self.refused += tokens - taken

    def demand(self) -> Demand:
        """Returns what the replicas would report."""
        if not self.running:
            return Demand(0, calls=sum(self.waiting.values()))
        return Demand(
            self.running, self.speed, self.start_s, dict(self._arriving), dict(self.waiting)
        )
