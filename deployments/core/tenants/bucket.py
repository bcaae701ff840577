"""A limit of tokens per minute that several routers keep together."""

from __future__ import annotations

_HELD_S = 3.0  # what comes back in this time is held: 5% of a minute
_EXCHANGE_S = 1.0  # routers tell each other what they have taken


class TokenBucket:
    """One router's copy of the bucket. Not thread-safe; the clock is passed in.

    Tokens come back evenly over the minute. The bucket holds what comes back in three seconds, so a
    minute never sees much more than its limit. A call of more tokens than the bucket holds needs a full
    bucket and leaves a debt.

    Each router's copy has the whole limit, and once a second the routers tell each other what they have
    taken. Until then a router assumes that each of the others takes as much as it does itself. So all
    together keep the limit, however the calls are spread over them; what was assumed wrongly is put right
    a second later.
    """

    def __init__(self, per_minute: int, now: float, routers: int = 1) -> None:
        self.per_minute = per_minute
        self.taken = 0  # by this router, since it started
        self._routers = routers
        self._level = self._capacity
        self._at = now
        self._untold = 0  # taken, but not yet known to the others

    def wait_s(self, tokens: int, now: float) -> float:
        """Returns the seconds until a call of so many tokens may begin; 0 if it may now."""
        missing = min(tokens, self._capacity) - self._refilled(now)
        if missing <= 0:
            return 0.0
        # at the next exchange, the others may turn out to have taken nothing
        at_least = missing - (self._routers - 1) * self._untold
        return max(at_least / self._per_s, min(missing / self._per_s, _EXCHANGE_S))

    def take(self, tokens: int, now: float) -> None:
        """A call of so many tokens has begun; a negative number gives some back."""
        self._level = min(self._capacity, self._refilled(now) - self._routers * tokens)
        self._untold += tokens
        self.taken += tokens

    def exchange(self, taken_by_others: int, routers: int, now: float) -> None:
        """The others have taken so many tokens since the last exchange, and know of this router's."""
        assumed = (self._routers - 1) * self._untold
        level = self._refilled(now) + assumed - taken_by_others
        self._routers, self._untold = routers, 0
        self._level = min(self._capacity, level)

    def remaining(self, now: float) -> int:
        """Returns how many tokens a call may take now without leaving a debt."""
        return max(0, int(self._refilled(now)))

    def full_after_s(self, now: float) -> float:
        """Returns the seconds until the bucket is full if nothing is taken."""
        return (self._capacity - self._refilled(now)) / self._per_s

    @property
    def _per_s(self) -> float:
        return self.per_minute / 60.0

    @property
    def _capacity(self) -> float:
        # with many routers, one that gets all calls would else have too little until the next exchange
        return self._per_s * max(_HELD_S, self._routers * _EXCHANGE_S)

    def _refilled(self, now: float) -> float:
        elapsed, self._at = max(0.0, now - self._at), max(now, self._at)
        self._level = min(self._capacity, self._level + elapsed * self._per_s)
        return self._level
