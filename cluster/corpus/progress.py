"""How far a job is: workers report to a Ray actor, and the driver prints a line.

The numbers are approximate; what counts is which parts are committed.
"""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

_PRINT_EVERY_S = 10.0
_BAR = 20
_WINDOW_S = 20.0  # rates are those of the last seconds
_SHOWN_REASONS = 3


@dataclass(frozen=True)
class Progress:
    """What has been done since the start of this run.

    ``weight`` is the encoded share of the input in bytes. Of the parts that are in place, also from
    earlier runs, ``rows`` are all rows, ``placed`` is the share of the input in bytes, and ``reasons``
    counts the rejected rows.
    """

    texts: int = 0
    tokens: int = 0
    weight: float = 0.0
    rows: int = 0
    placed: float = 0.0
    replicas: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Progress) -> Progress:
        """Adds everything except ``replicas``, of which the latest count holds."""
        return Progress(
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.weight + other.weight,
            self.rows + other.rows,
            self.placed + other.placed,
            other.replicas or self.replicas,
            Counter(self.reasons) + Counter(other.reasons),
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
    import ray  # not needed to refuse a job

    return ray.remote(num_cpus=0, max_restarts=-1)(ProgressCollector).remote()


@dataclass(frozen=True)
class Rates:
    """What was done a second lately: texts, tokens, and bytes of the input."""

    texts: float = 0.0
    tokens: float = 0.0
    weight: float = 0.0


class RateMeter:
    """Measures rates over the last seconds, since a lifetime average would hold the start forever."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Progress]] = deque()

    def rates(self, progress: Progress, now: float) -> Rates:
        """Returns the rates up to ``now`` in seconds, of any clock; zeros until something moved."""
        if not self._samples and not progress.texts:
            return Rates()
        self._samples.append((now, progress))
        while len(self._samples) > 2 and self._samples[1][0] <= now - _WINDOW_S:
            self._samples.popleft()
        since, before = self._samples[0]
        if (seconds := now - since) <= 0:
            return Rates()
        return Rates(
            (progress.texts - before.texts) / seconds,
            (progress.tokens - before.tokens) / seconds,
            (progress.weight - before.weight) / seconds,
        )


@dataclass(frozen=True)
class Snapshot:
    """A running job.

    ``total`` is the input's bytes, ``kept`` those of parts that were in place when this run started,
    ``rows`` the input's rows if they are known without reading them. ``seconds`` and ``replica_hours``
    are those of this run. ``waiting`` says why nothing moves, if nothing does.
    """

    progress: Progress
    total: float
    seconds: float
    kept: float = 0.0
    rows: int | None = None
    rates: Rates = field(default_factory=Rates)
    replica_hours: float = 0.0
    price: float | None = None
    waiting: str | None = None

    @property
    def share(self) -> float:
        """The part of the input that is done, between 0 and 1."""
        return min(1.0, (self.progress.weight + self.kept) / max(1.0, self.total))

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at the present pace; None if nothing moves."""
        left = self.total - self.progress.weight - self.kept
        return max(0.0, left) / self.rates.weight if self.rates.weight > 0 else None

    @property
    def rows_of(self) -> str:
        """The rows that are in place, of all rows, whose number is estimated if it is not known."""
        done, placed = self.progress.rows, self.progress.placed
        if self.rows is not None:
            return f"{done:,} of {self.rows:,} rows"
        if not placed:
            return f"{done:,} rows"
        about = "about " if placed < self.total else ""
        return f"{done:,} of {about}{max(done, round(done * self.total / placed)):,} rows"


def progress_line(now: Snapshot) -> str:
    """Returns one line: share, rows, rates, rejects, time so far and time left."""
    fields = [f"{now.share:4.0%} {_bar(now.share)}"]
    if now.progress.rows or not now.kept:  # else the rows that were kept are not counted yet
        fields.append(now.rows_of)
    if now.rates.tokens:
        fields += [_tokens_per_s(now), f"{short_number(now.rates.texts)} texts/s"]
    elif not now.progress.texts and not now.waiting:
        fields.append("starting workers" if now.share < 1 else "checking the parts in place")
    if now.progress.reasons:
        fields.append(reasons_line(now.progress.reasons))
    left = "" if now.left_s is None else f", {clock(now.left_s)} left"
    fields.append(f"{clock(now.seconds)}{left}")
    if now.price is not None:
        fields.append(f"cost {now.replica_hours * now.price:.2f}")
    return "  ".join(fields)


def _bar(share: float) -> str:
    return ("█" * int(share * _BAR)).ljust(_BAR)


def _tokens_per_s(now: Snapshot) -> str:
    rate = f"{short_number(now.rates.tokens)} tokens/s"
    replicas = now.progress.replicas
    if replicas > 1:
        rate += f" ({replicas} × {short_number(now.rates.tokens / replicas)})"
    return rate


def reasons_line(reasons: Mapping[str, int]) -> str:
    """Returns the number of rejected rows and the most frequent reasons."""
    most = Counter(reasons).most_common(_SHOWN_REASONS)
    shown = ", ".join(f"{count:,} {reason}" for reason, count in most)
    more = ", …" if len(reasons) > _SHOWN_REASONS else ""
    return f"{sum(reasons.values()):,} rejected ({shown}{more})"


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
        line = line[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be updated
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)
