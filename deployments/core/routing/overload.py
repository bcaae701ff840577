"""Refusals before any work: under overload, refusing must cost less than answering."""

from __future__ import annotations

from collections import deque

from deployments.core.errors import DeadlineExceeded, Overloaded

_MOST_S = 0.2
_PART = 0.02  # of the Retry-After: in so short a time the backlog hardly changes
_SURELY = 2.0
_WATCH_S = 5.0  # to tell how fast requests leave
_MOST_RETRY_AFTER_S = 60.0  # where none has left, such as behind a model that starts


class LastRefusal:
    """Remembers the smallest request that a model has refused within the last moment.

    Another one of that size is refused before it is tokenized and sent.
    """

    def __init__(self) -> None:
        self._error: Overloaded | None = None
        self._tokens = 0
        self._at = self._until = float("-inf")

    def note(self, tokens: int, error: Overloaded, now: float) -> None:
        """A request of about so many tokens was refused for overload."""
        smaller = now >= self._until or tokens <= self._tokens
        if smaller and error.retry_after_s:
            self._error, self._tokens, self._at = error, tokens, now
            self._until = now + min(_MOST_S, _PART * error.retry_after_s)

    def repeat(self, tokens: int, now: float) -> None:
        """Raises Overloaded again for a request of at least that size."""
        if now < self._until and tokens >= self._tokens and self._error is not None:
            left_s = (self._error.retry_after_s or 0.0) - (now - self._at)
            raise Overloaded(self._error.message, self._error.param, left_s)


def refuse_if_hopeless(tokens: int, tokens_per_s: float | None, left_s: float) -> None:
    """Raises DeadlineExceeded for a request that alone takes far longer than ``left_s``.

    Both numbers are estimates, so a request is refused only if it takes twice the time. Without a
    measured speed nothing is refused.
    """
    alone_s = tokens / tokens_per_s if tokens_per_s else 0.0
    if alone_s > _SURELY * left_s:
        raise DeadlineExceeded(
            f"about {tokens} tokens take about {alone_s:.0f} s here, but the request has {left_s:.0f} s; "
            "send fewer texts per request, or raise `limits.request_timeout_s` in the config"
        )


class ConcurrencyLimiter:
    """Bounds the requests in progress, and measures how fast they leave.

    Not thread-safe; the clock is passed in. The lanes of replicas do not see a storm of short requests,
    since the routers' event loops are busy reading them; this limit does.
    """

    def __init__(self, most: int, what: str = "requests") -> None:
        """At most ``most`` are inside at once; ``what`` is their name in the refusal."""
        self._most = most
        self._what = what
        self._inside = 0
        self._left: deque[float] = deque(maxlen=most)

    def enter(self, now: float) -> None:
        """One more is inside. Raises Overloaded, with the seconds that those inside will take."""
        self.check(now)
        self._inside += 1

    def check(self, now: float) -> None:
        """Raises Overloaded as `enter` would."""
        if self._inside >= self._most:
            raise Overloaded(
                f"{self._inside} {self._what} are under way in this router; retry later, or add "
                "replicas and routers",
                retry_after_s=min(_MOST_RETRY_AFTER_S, self._inside / self._per_s(now)),
            )

    def leave(self, now: float) -> None:
        """One that had entered is answered."""
        self._inside -= 1
        self._left.append(now)

    def _per_s(self, now: float) -> float:
        while self._left and self._left[0] <= now - _WATCH_S:
            self._left.popleft()
        watched_s = now - self._left[0] if len(self._left) == self._most else _WATCH_S
        return max(1, len(self._left)) / watched_s
