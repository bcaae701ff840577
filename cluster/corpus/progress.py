"""How far a job is: workers report to a Ray actor, and the driver prints a line.

The numbers are approximate; what counts is which parts are committed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TextIO

import ray

_PRINT_EVERY_S = 10.0


@dataclass(frozen=True)
class Progress:
    """What has been done since the start of this run.

    ``weight`` is the encoded share of the input in bytes, ``skipped`` what earlier runs had done.
    """

    texts: int = 0
    tokens: int = 0
    rejected: int = 0
    weight: float = 0.0
    skipped: float = 0.0
    replicas: int = 0

    def __add__(self, other: Progress) -> Progress:
        """Adds everything except ``replicas``, of which the latest count holds."""
        return Progress(
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.rejected + other.rejected,
            self.weight + other.weight,
            self.skipped + other.skipped,
            other.replicas or self.replicas,
        )


class ProgressCollector:
    """A Ray actor that adds up the workers' progress, and knows whether the driver still waits."""

    def __init__(self) -> None:
        self._total = Progress()
        self._abandoned = False

    def add(self, progress: Progress) -> None:
        """Called by workers."""
        self._total += progress

    def total(self) -> Progress:
        """Called by the driver."""
        return self._total

    def abandon(self) -> None:
        """Called by a driver that was interrupted but lives on, such as a notebook's kernel."""
        self._abandoned = True

    def abandoned(self) -> bool:
        """Called by workers now and then."""
        return self._abandoned


def start_collector() -> Any:
    """Returns the handle of a new `ProgressCollector`, which reserves no CPU."""
    return ray.remote(num_cpus=0, max_restarts=-1)(ProgressCollector).remote()


@dataclass(frozen=True)
class Snapshot:
    """A running job: its progress, the input's bytes, and the seconds and replica-hours so far.

    ``waiting`` says why nothing moves, if nothing does.
    """

    progress: Progress
    total: float
    seconds: float
    replica_hours: float = 0.0
    price: float | None = None
    waiting: str | None = None

    @property
    def share(self) -> float:
        """The part of the input that is done, between 0 and 1."""
        done = self.progress.weight + self.progress.skipped
        return min(1.0, done / max(1.0, self.total))

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second since the start of this run."""
        return self.progress.tokens / self.seconds if self.seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at this run's pace; None until something is encoded."""
        if self.progress.weight <= 0:
            return None
        left = self.total - self.progress.weight - self.progress.skipped
        return max(0.0, left) * self.seconds / self.progress.weight


def progress_line(now: Snapshot) -> str:
    """Returns one line, such as ``61%  12,288 texts  25.1k tokens/s (2 × 12.6k)  ETA 1:20``."""
    progress = now.progress
    rate = f"{short_number(now.tokens_per_s)} tokens/s"
    if progress.replicas > 1:
        per_replica = short_number(now.tokens_per_s / progress.replicas)
        rate += f" ({progress.replicas} × {per_replica})"
    fields = [
        f"{now.share:4.0%}",
        f"{progress.texts:,} texts",
        rate,
        f"{progress.rejected:,} rejected",
    ]
    if now.left_s is not None:
        fields.append(f"ETA {clock(now.left_s)}")
    if now.price is not None:
        fields.append(f"cost {now.replica_hours * now.price:.2f}")
    return "  ".join(fields)


def short_number(number: float) -> str:
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


class ProgressPrinter:
    """Prints progress: in a terminal one line that is updated, else a line every ten seconds."""

    def __init__(self, stream: TextIO, terminal: bool) -> None:
        self._stream = stream
        self._terminal = terminal
        self._printed_at = 0.0
        self._width = 0
        self._waiting: str | None = None

    def show(self, now: Snapshot) -> None:
        """Prints the progress if it is time, and at once, on its own line, what the job waits for."""
        if now.waiting and now.waiting != self._waiting:
            self.say(f"waiting: {now.waiting}")
        self._waiting = now.waiting
        if self._terminal:
            self._update(progress_line(now))
        elif now.seconds - self._printed_at >= _PRINT_EVERY_S:
            self._printed_at = now.seconds
            print(progress_line(now), file=self._stream, flush=True)

    def say(self, message: str) -> None:
        """Prints a message on its own line."""
        self.end()
        self._width = 0
        print(f"embedfleet: {message}", file=self._stream, flush=True)

    def end(self) -> None:
        """Ends the progress line of a terminal."""
        if self._terminal and self._width:
            print(file=self._stream, flush=True)

    def _update(self, line: str) -> None:
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)
