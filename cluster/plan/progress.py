"""How far a long simulation is, on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

_SOON_S = 2.0  # nobody needs to be told about a simulation that takes no longer
_TERMINAL_EVERY_S, _FILE_EVERY_S = 0.5, 10.0


class SimulationProgress:
    """Prints which simulation runs, once the plan has taken two seconds."""

    def __init__(
        self, stream: TextIO, terminal: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """In a ``terminal`` one line is updated; a file gets a line every ten seconds."""
        self._stream, self._terminal, self._clock = stream, terminal, clock
        self._next_at = clock() + _SOON_S
        self._has_line = False

    def show(self, name: str, share: float) -> None:
        """Prints the policy that is simulated and how far, if it is time; ``share`` is from 0 to 1."""
        if (now := self._clock()) < self._next_at:
            return
        self._next_at = now + (_TERMINAL_EVERY_S if self._terminal else _FILE_EVERY_S)
        start, end = ("\r\033[K", "") if self._terminal else ("", "\n")
        line = f"{start}embedfleet: simulating {name}: {share:.0%}"
        print(line, end=end, file=self._stream, flush=True)
        self._has_line = self._terminal

    def end(self) -> None:
        """Removes the line from a terminal."""
        if self._has_line:
            print("\r\033[K", end="", file=self._stream, flush=True)
