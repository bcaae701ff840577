"""What was just refused is refused again for a moment, before it is tokenized and sent.

Under overload most requests are refused; what that costs is taken from those that are not.
"""

from __future__ import annotations

from deployments.embedding.errors import Overloaded

_MOST_S = 0.2
_PART = 0.02  # of the Retry-After: in so short a time the backlog hardly changes


class LastRefusal:
    """Remembers the smallest request that a model has refused within the last moment."""

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
