"""When a request is sent again. Pure, with the clock passed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# the service sends Retry-After with these if the same request may succeed later
RETRIED = (429, 503)
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 5.0
_LOST_CONNECTIONS = 4  # a service that is not there shall not be waited for until the deadline


@dataclass
class Attempts:
    """The attempts at one request, all of which have to end at ``deadline``."""

    deadline: float
    failed: int = 0
    lost: int = 0

    def left_s(self, now: float) -> float:
        """Returns the seconds until the deadline, at least a little."""
        return max(0.001, self.deadline - now)

    def pause_after_answer(
        self, status: int, headers: Mapping[str, str], from_service: bool, now: float
    ) -> float | None:
        """Returns the seconds to wait before the request is sent again; None if it is not.

        A service that does not say when to come back will not answer later either. A proxy
        (``from_service`` is false) never says.
        """
        if status not in RETRIED:
            return None
        pause = retry_after_s(headers)
        if pause is None:
            pause = None if from_service else self._backoff()
        return self._within_deadline(pause, now)

    def pause_after_lost_connection(self, now: float) -> float | None:
        """As `pause_after_answer`, for a request that got no answer."""
        if self.lost >= _LOST_CONNECTIONS:
            return None
        self.lost += 1
        return self._within_deadline(self._backoff(), now)

    def _backoff(self) -> float:
        return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self.failed))

    def _within_deadline(self, pause: float | None, now: float) -> float | None:
        if pause is None or now + pause >= self.deadline:
            return None
        self.failed += 1
        return pause


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Returns what ``retry-after-ms`` or ``retry-after`` say, in seconds; None if neither does.

    Dates, which the service never sends, count as nothing said.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) / unit)
        except (KeyError, ValueError):
            continue
    return None
