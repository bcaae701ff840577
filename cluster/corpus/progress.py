"""The line that tells how far a job is. The clock is passed in.

Where workers write how far they are, and the driver reads it. Approximate: the parts count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TextIO

import ray

_EVERY_S = 10.0


@dataclass(frozen=True)
class Snapshot:
    """A job under way: what is done, of how many bytes, after how many seconds and replica-hours.

    ``waiting`` says why nothing moves.
    """

    tally: Tally
    total: float
    seconds: float
    replica_hours: float = 0.0
    price: float | None = None
    waiting: str | None = None

    @property
    def share(self) -> float:
        """The part of the input that is done, between 0 and 1."""
        return min(1.0, (self.tally.weight + self.tally.skipped) / max(1.0, self.total))

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second since the start of this run."""
        return self.tally.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at this run's pace; None while nothing tells."""
        if self.tally.weight <= 0:
            return None
        left = self.total - self.tally.weight - self.tally.skipped
        return max(0.0, left) * self.seconds / self.tally.weight


def line(now: Snapshot) -> str:
    """Returns one line, such as ``61%  12,288 texts  25.1k tokens/s (2 × 12.6k)  ETA 1:20``."""
    tally = now.tally
    rate = f"{short(now.tokens_per_s)} tokens/s"
    if tally.replicas > 1:
        rate += f" ({tally.replicas} × {short(now.tokens_per_s / tally.replicas)})"
    words = [f"{now.share:4.0%}", f"{tally.texts:,} texts", rate, f"{tally.rejected:,} rejected"]
    if now.left_s is not None:
        words.append(f"ETA {clock(now.left_s)}")
    if now.price is not None:
        words.append(f"cost {now.replica_hours * now.price:.2f}")
    return "  ".join(words)


def short(number: float) -> str:
    """Returns three digits and a unit: 950, 25.1k, 1.30M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            scaled = number / unit
            return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f}{name}"
    return f"{number:.0f}"


def clock(seconds: float) -> str:
    """Returns ``m:ss``, or ``h:mm:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Printer:
    """Writes progress: one line kept up to date in a terminal, else a line every ten seconds."""

    def __init__(self, stream: TextIO, terminal: bool) -> None:
        self._stream = stream
        self._terminal = terminal
        self._printed_at = 0.0
        self._width = 0
        self._waiting: str | None = None

    def show(self, now: Snapshot) -> None:
        """Prints, if it is time; at once and on a line of its own what is waited for."""
        self._explain(now.waiting)
        if not self._terminal:
            if now.seconds - self._printed_at >= _EVERY_S:
                self._printed_at = now.seconds
                print(line(now), file=self._stream, flush=True)
            return
        text = line(now)
        self._stream.write("\r" + text.ljust(self._width))
        self._stream.flush()
        self._width = len(text)

    def _explain(self, waiting: str | None) -> None:
        if waiting and waiting != self._waiting:
            self.say(f"waiting: {waiting}")
        self._waiting = waiting

    def say(self, words: str) -> None:
        """Prints a line of its own."""
        self.end()
        self._width = 0
        print(f"embedfleet: {words}", file=self._stream, flush=True)

    def end(self) -> None:
        """Leaves the line."""
        if self._terminal and self._width:
            print(file=self._stream, flush=True)


@dataclass(frozen=True)
class Tally:
    """What has been done since the start of this run.

    ``weight`` is the encoded share of the input in bytes, ``skipped`` what earlier runs had done.
    """

    texts: int = 0
    tokens: int = 0
    rejected: int = 0
    weight: float = 0.0
    skipped: float = 0.0
    replicas: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Sums, but for the replicas, which are the latest seen."""
        return Tally(
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.rejected + other.rejected,
            self.weight + other.weight,
            self.skipped + other.skipped,
            other.replicas or self.replicas,
        )


class Board:
    """A Ray actor that sums tallies, and knows whether anyone still waits for them."""

    def __init__(self) -> None:
        self._sum = Tally()
        self._abandoned = False

    def add(self, tally: Tally) -> None:
        """Called by workers."""
        self._sum += tally

    def total(self) -> Tally:
        """Called by the driver."""
        return self._sum

    def abandon(self) -> None:
        """Called by a driver that was interrupted and lives on, such as a notebook's kernel."""
        self._abandoned = True

    def abandoned(self) -> bool:
        """Called by workers now and then."""
        return self._abandoned


def open_board() -> Any:
    """Returns the handle of a new board, which takes no CPU."""
    return ray.remote(num_cpus=0, max_restarts=-1)(Board).remote()
