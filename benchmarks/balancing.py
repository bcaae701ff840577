"""Which replica gets a call: waiting tokens per replica with our choice, and with Serve's.

    python -m benchmarks.balancing [--seconds N]

A simulation without a service. Several routers send calls to several replicas, at random moments and
75% of what the replicas can do; most calls are 5 tokens, some are 30,000. Each replica works its queue
off at its speed and says every second, and with each answer, what waits. One choice is `Balancer`, which
counts tokens; the other is Serve's default: of two replicas drawn at random, the one with fewer calls.
A replica's backlog is looked at a hundred times a second; the chart shows the first minute.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common.charts import OURS, draw_lines
from benchmarks.common.reporting import parser, percentile, report
from deployments.client.balancing import Balancer
from deployments.core.lane import Lane
from deployments.wire.status import ReplicaState, ReplicaStatus

ROUTERS = 3
LOAD = 0.75
SMALL, LARGE, LARGE_SHARE = 5, 30_000, 0.01
FLEETS = {
    "4 equal replicas": [20_000.0] * 4,
    "3 replicas, and one at a quarter": [20_000.0] * 3 + [5_000.0],
}
STATUS_EVERY_S, LOOK_EVERY_S = 1.0, 0.01
SHOWN_S = 60.0
COLOURS = (OURS, "#e8710a", "#2e8b57", "#8e44ad")
SPACE = "space"


@dataclass
class Replica:
    """Works off its calls in order: (router, tokens, when it came)."""

    speed: float
    calls: deque[tuple[int, int, float]] = field(default_factory=deque)
    waiting: int = 0


class ByTokens:
    """Our choice: one `Balancer` in each router."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas
        self._balancers = [Balancer() for _ in range(ROUTERS)]
        for balancer in self._balancers:
            for key, replica in enumerate(replicas):
                balancer.join(str(key), _status(replica), 0.0)

    def pick(self, router: int, tokens: int, now: float) -> int:
        """Returns the replica of a call, and counts it."""
        key = self._balancers[router].pick(Lane.ONLINE, tokens, SPACE, now)
        assert key is not None
        self._balancers[router].sent(key, Lane.ONLINE, tokens)
        return int(key)

    def answered(self, router: int, replica: int, tokens: int, now: float) -> None:
        """A call has its answer, which says what still waits."""
        key, waiting = str(replica), self._replicas[replica].waiting
        self._balancers[router].ended(key, Lane.ONLINE, tokens)
        self._balancers[router].answered(key, {Lane.ONLINE: waiting}, now)

    def status(self, now: float) -> None:
        """Each replica says how it is."""
        for key, replica in enumerate(self._replicas):
            for balancer in self._balancers:
                balancer.heard(str(key), _status(replica), now)


class ByCalls:
    """Serve's default: the one of two with fewer calls, of which each knows the number exactly."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = replicas
        self._dice = random.Random(1)

    def pick(self, router: int, tokens: int, now: float) -> int:  # noqa: ARG002
        """Returns the replica of a call."""
        pair = self._dice.sample(range(len(self._replicas)), 2)
        return min(pair, key=lambda number: len(self._replicas[number].calls))

    def answered(self, router: int, replica: int, tokens: int, now: float) -> None:
        """Nothing to do: the replicas count their calls."""

    def status(self, now: float) -> None:
        """Nothing to do."""


def _status(replica: Replica) -> ReplicaStatus:
    return ReplicaStatus(
        ReplicaState.READY,
        tokens_per_s=round(replica.speed),
        waiting={Lane.ONLINE: replica.waiting},
        space=SPACE,
    )


@dataclass(frozen=True)
class Result:
    """Seconds: what waits for each replica at each look, and the latencies of small calls."""

    backlogs: list[list[float]]
    latencies: list[float]

    @property
    def spreads(self) -> list[float]:
        """The difference between the most and the least busy replica at each look."""
        return [max(backlogs) - min(backlogs) for backlogs in self.backlogs]


Choice = Callable[[Sequence[Replica]], ByTokens | ByCalls]


def simulate(choose: Choice, speeds: Sequence[float], seconds: float) -> Result:
    """Runs one choice over one fleet; the calls are the same for each choice."""
    replicas = [Replica(speed) for speed in speeds]
    choice, dice, order = choose(replicas), random.Random(0), iter(range(10**9))
    mean = SMALL * (1 - LARGE_SHARE) + LARGE * LARGE_SHARE
    rate = LOAD * sum(speeds) / mean
    events: list[tuple[float, int, str, int]] = []

    def plan(at: float, what: str, which: int = 0) -> None:
        heapq.heappush(events, (at, next(order), what, which))

    plan(dice.expovariate(rate), "call")
    plan(STATUS_EVERY_S, "status")
    plan(LOOK_EVERY_S, "look")
    result = Result([], [])
    while events[0][0] < seconds:
        now, _, what, which = heapq.heappop(events)
        if what == "call":
            tokens = LARGE if dice.random() < LARGE_SHARE else SMALL
            router = dice.randrange(ROUTERS)
            number = choice.pick(router, tokens, now)
            replica = replicas[number]
            replica.calls.append((router, tokens, now))
            replica.waiting += tokens
            if len(replica.calls) == 1:
                plan(now + tokens / replica.speed, "done", number)
            plan(now + dice.expovariate(rate), "call")
        elif what == "done":
            replica = replicas[which]
            router, tokens, since = replica.calls.popleft()
            replica.waiting -= tokens
            if tokens == SMALL:
                result.latencies.append(now - since)
            choice.answered(router, which, tokens, now)
            if replica.calls:
                plan(now + replica.calls[0][1] / replica.speed, "done", which)
        elif what == "status":
            choice.status(now)
            plan(now + STATUS_EVERY_S, "status")
        else:
            result.backlogs.append([replica.waiting / replica.speed for replica in replicas])
            plan(now + LOOK_EVERY_S, "look")
    return result


def draw(axes: Any, results: Mapping[tuple[str, str], Result]) -> None:
    """Draws what waits for each replica over the first minute."""
    looks = int(SHOWN_S / LOOK_EVERY_S)
    highest = max(max(map(max, result.backlogs[:looks])) for result in results.values())
    for axis, ((fleet, name), result) in zip(axes.flat, results.items(), strict=True):
        shown = result.backlogs[:looks]
        times = [number * LOOK_EVERY_S for number in range(len(shown))]
        for colour, backlog in zip(COLOURS, zip(*shown, strict=True), strict=True):
            axis.plot(times, backlog, color=colour, linewidth=0.9)
        axis.set_title(f"{fleet}; by {name}", fontsize=9, loc="left")
        axis.set_ylim(0, 1.05 * highest)
    for axis in axes[:, 0]:
        axis.set_ylabel("seconds of work that wait", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("seconds", fontsize=8)


def main() -> None:
    """Prints the table and draws the chart."""
    options = parser("balancing", __doc__)
    options.add_argument("--seconds", type=float, default=300.0)
    seconds = options.parse_args().seconds
    rows, results = [], {}
    for fleet, speeds in FLEETS.items():
        for name, choose in (("waiting tokens", ByTokens), ("calls, of two", ByCalls)):
            result = results[fleet, name] = simulate(choose, speeds, seconds)
            rows.append(
                (
                    fleet,
                    name,
                    f"{statistics.mean(result.spreads):.2f}",
                    f"{percentile(result.spreads, 99):.2f}",
                    f"{percentile(result.latencies, 50) * 1e3:.0f}",
                    f"{percentile(result.latencies, 99) * 1e3:.0f}",
                )
            )
    header = ("FLEET", "CHOICE BY", "SPREAD S", "P99", "SMALL CALLS P50 MS", "P99 MS")
    report("balancing", header, rows)
    draw_lines("balancing", 2, 2, 6.0, lambda axes: draw(axes, results))


if __name__ == "__main__":
    main()
