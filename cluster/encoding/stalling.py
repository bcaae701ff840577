"""Why nothing moves in a job, asked of the service while that is so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from cluster.encoding.board import Tally

_EVERY_S = 10.0


class Stalling:
    """Notices that nothing moves, and asks in a thread of its own: nobody may answer."""

    def __init__(self, ask: Callable[[], str | None], now: float) -> None:
        self._ask = ask
        self._last = Tally()
        self._moved_at = self._looked_at = now
        self._asking: threading.Thread | None = None
        self._found: tuple[float, str | None] = (now, None)

    def reason(self, tally: Tally, now: float) -> str | None:
        """Returns why nothing has moved since it last did; None where something does, or none tells."""
        tally = replace(tally, replicas=0)  # they come and go without work
        if tally != self._last:
            self._last, self._moved_at, self._looked_at = tally, now, now
        elif now - self._looked_at >= _EVERY_S and not self._is_asking():
            self._looked_at = now
            self._asking = threading.Thread(target=self._find, args=(now,), daemon=True)
            self._asking.start()
        asked_at, why = self._found
        return why if asked_at > self._moved_at else None

    def _is_asking(self) -> bool:
        return self._asking is not None and self._asking.is_alive()

    def _find(self, asked_at: float) -> None:
        self._found = asked_at, self._ask()
