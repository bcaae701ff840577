"""How owners share the queue, the runner and downloads, so that none keeps others waiting for long.

Pure: the clock is passed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from deployments.batches.states import EVERYONE

Queue = Mapping[str, str]  # the owner of each batch, the oldest batch first


def has_room(held: Counter[str], owner: str, most: int) -> bool:
    """Whether there is one of ``most`` places for an owner. ``held`` says how many each one has.

    An owner may hold at most as many places as are still free, so others always find one. Without keys
    there are no others.
    """
    free = most - held.total()
    return free > 0 and (owner == EVERYONE or held[owner] < free)


class Turns:
    """Whose batch runs next. An owner alone may have all places; once others wait, owners take turns."""

    def __init__(self, places: int, turn_s: float) -> None:
        """Within ``turn_s`` seconds, a batch does not lose its place to another owner's."""
        self._places = places
        self._turn_s = turn_s
        self._last: dict[str, float] = {}

    def next(self, waiting: Queue, running: Queue, now: float) -> str | None:
        """Returns the batch that gets a free place now, if there is one: the oldest of the owner who
        has the fewest places, and of several, of the one whose last turn began the longest ago.
        """
        if len(running) >= self._places or not waiting:
            return None
        places = Counter(running.values())
        first = min(waiting, key=lambda b: (places[waiting[b]], self._last.get(waiting[b], 0.0)))
        self._last[waiting[first]] = now
        return first

    def ended(
        self, waiting: Queue, running: Queue, since: Mapping[str, float], now: float
    ) -> str | None:
        """Returns the batch that gives up its place now, if all are taken and an owner waits who has
        fewer places than the batch's. ``since`` is when each running batch got its own.
        """
        if len(running) < self._places or not waiting:
            return None
        places = Counter(running.values())
        fewest = min(places[owner] for owner in waiting.values())
        over = [
            batch
            for batch, owner in running.items()
            if places[owner] > fewest and now - since[batch] >= self._turn_s
        ]
        return min(over, key=lambda b: (-places[running[b]], since[b]), default=None)
