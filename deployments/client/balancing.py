"""Which replica gets a call: the one that will be done with it first.

A replica is judged by the tokens that wait for it and by its measured speed, not by its number of calls:
one call may be five tokens and the next 30,000. The lanes are counted apart, since online texts go first.
What a replica says of its lanes is up to a second old, so this client's own calls are counted exactly,
and only what comes from other clients is taken from the replica's word.

Pure bookkeeping: no clock, no sockets. Times are seconds of one clock, passed in.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import count

from deployments.core.lane import Lane
from deployments.wire.status import ReplicaState, ReplicaStatus

SILENT_AFTER_S = 3.0  # a replica speaks every second
_SWITCH_S = 0.25  # a wait that is worth preparing the texts anew, for another version
_SLOWEST = 100.0  # tokens/s, for a replica that does not know its speed


def _nothing() -> dict[Lane, int]:
    return dict.fromkeys(Lane, 0)


@dataclass
class Standing:
    """What is known of one replica. ``mine`` are the tokens of this client's calls under way,
    ``others`` those of other clients that waited when the replica was last heard.
    """

    status: ReplicaStatus
    heard: float
    is_leaving: bool = False
    mine: dict[Lane, int] = field(default_factory=_nothing)
    others: dict[Lane, int] = field(default_factory=_nothing)
    last_turn: int = 0

    def wait_s(self, lane: Lane, tokens: int = 0) -> float:
        """Returns the seconds until so many further tokens of a lane would be computed."""
        ahead = self.mine[Lane.ONLINE] + self.others[Lane.ONLINE]
        if lane is Lane.OFFLINE:
            ahead += self.mine[Lane.OFFLINE] + self.others[Lane.OFFLINE]
        return (ahead + tokens) / max(_SLOWEST, self.status.tokens_per_s or 0)


class Balancer:
    """The replicas that one client can reach, by a key of the caller's."""

    def __init__(self) -> None:
        self._standings: dict[str, Standing] = {}
        self._turns = count(1)

    def join(self, key: str, status: ReplicaStatus, now: float) -> None:
        """A replica can be reached from now on."""
        self._standings[key] = Standing(status, now)
        self._hear_waiting(self._standings[key], status.waiting)

    def leave(self, key: str) -> None:
        """A replica is gone."""
        self._standings.pop(key, None)

    def avoid(self, key: str, is_leaving: bool) -> None:
        """Whether a replica takes no more calls; it still answers those that it has."""
        if key in self._standings:
            self._standings[key].is_leaving = is_leaving

    def heard(self, key: str, status: ReplicaStatus, now: float) -> None:
        """A replica has said how it is."""
        standing = self._standings[key]
        standing.status, standing.heard = status, now
        self._hear_waiting(standing, status.waiting)

    def sent(self, key: str, lane: Lane, tokens: int) -> None:
        """A call of so many tokens is under way to this replica."""
        self._standings[key].mine[lane] += tokens
        self._standings[key].last_turn = next(self._turns)

    def ended(self, key: str, lane: Lane, tokens: int) -> None:
        """A call is answered, or given up."""
        if key in self._standings:
            self._standings[key].mine[lane] -= tokens

    def answered(self, key: str, waiting: Mapping[Lane, int], now: float) -> None:
        """An answer has come, with what still waits at this replica."""
        if key in self._standings:
            self._standings[key].heard = now
            self._hear_waiting(self._standings[key], waiting)

    def pick(
        self, lane: Lane, tokens: int, space: str, now: float, besides: Collection[str] = ()
    ) -> str | None:
        """Returns the replica that will be done first with so many tokens of a space; None if there
        is none.

        Replicas that cannot answer, or have been silent, come last. One of another space is chosen only
        if it is clearly less busy; the caller then has to prepare the texts anew. With ``besides``,
        replicas that have the call already, only one that has not been silent is worth a try.
        """
        choice = {
            key: standing
            for key, standing in self._standings.items()
            if not standing.is_leaving
            and key not in besides
            and not (besides and self.is_silent(key, now))
        }

        def rank(key: str) -> tuple[bool, bool, float, int]:
            standing = choice[key]
            detour_s = 0.0 if standing.status.space == space else _SWITCH_S
            return (
                self.is_silent(key, now),
                standing.status.state is not ReplicaState.READY,
                standing.wait_s(lane, tokens) + detour_s,
                standing.last_turn,
            )

        return min(choice, key=rank, default=None)

    def silence_s(self, key: str, now: float) -> float:
        """Returns for how long a replica has said nothing; infinite for one that has gone."""
        standing = self._standings.get(key)
        return math.inf if standing is None else now - standing.heard

    def is_silent(self, key: str, now: float) -> bool:
        """Whether a replica has said nothing for so long that it may be hung."""
        return self.silence_s(key, now) > SILENT_AFTER_S

    def _hear_waiting(self, standing: Standing, waiting: Mapping[Lane, int]) -> None:
        for lane in Lane:
            standing.others[lane] = max(0, waiting.get(lane, 0) - standing.mine[lane])
