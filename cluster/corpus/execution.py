"""A corpus job at work: Ray Data in a thread, watched from the one that started it.

Why nothing moves in a job, asked of the service while that is so.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ray

from cluster.corpus.connect import Target, why_waiting
from cluster.corpus.dedupe import Ledger
from cluster.corpus.encode.worker import PartEncoder
from cluster.corpus.errors import JobError
from cluster.corpus.plan.parts import Part, stretches
from cluster.corpus.progress import Snapshot, Tally
from cluster.corpus.settings import WORKER_CPUS
from cluster.corpus.work import Work
from cluster.corpus.write.manifest import Counts
from deployments.core.errors import EmbedfleetError

# one part is encoded while the next is read and the last one written
_STRETCHES_PER_WORKER = 2
_MOST_BLOCKS = 2_000
_LOOK_S = 0.5


@dataclass(frozen=True)
class Run:
    """How a job is run, which changes nothing about its vectors. ``found`` is told what answers."""

    address: str | None = None
    workers: int | None = None
    price_per_replica_hour: float | None = None
    watch: Callable[[Snapshot], None] | None = None
    found: Callable[[Target], None] | None = None


class Execution:
    """The dataset at work in a thread, so that this one can watch."""

    def __init__(
        self, work: Work, parts: list[Part], run: Run, ledger: Ledger, target: Target
    ) -> None:
        self._stretches = stretches(parts, work.workers * _STRETCHES_PER_WORKER)
        # those that there are share all calls
        self._work = replace(work, workers=min(work.workers, len(self._stretches)))
        self._ledger = ledger
        self._parts = parts
        self._run = run
        self._target = target
        self._counts = Counts()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._consume, daemon=True)

    def result(self) -> tuple[Counts, Tally, float]:
        """Runs to the end: counts of all parts, what this run did, and its replica-hours."""
        try:
            return self._watched()
        except BaseException:
            self._work.board.abandon.remote()
            raise

    def _watched(self) -> tuple[Counts, Tally, float]:
        total = float(sum(part.weight for part in self._parts))
        started = last = time.monotonic()
        stalling = Stalling(self._why, started)
        hours, tally = 0.0, Tally(replicas=self._work.replicas)
        self._thread.start()
        alive = True
        while alive:
            self._thread.join(_LOOK_S)
            alive = self._thread.is_alive()
            tally = self._look(tally)
            now = time.monotonic()
            hours += tally.replicas * (now - last) / 3_600
            last = now
            if self._run.watch and self._error is None:
                price = self._run.price_per_replica_hour
                why = stalling.reason(tally, now)
                self._run.watch(Snapshot(tally, total, now - started, hours, price, why))
        if self._error is not None:
            raise _explained(self._error) from self._error
        return self._counts, tally, hours

    def _why(self) -> str | None:
        return why_waiting(self._target)

    def _consume(self) -> None:
        try:
            for row in self._dataset().iter_rows():
                self._counts += Counts(**json.loads(row["counts"]))
                self._ledger.add(row["number"], row["ids"])
        except BaseException as error:
            self._error = error

    def _dataset(self) -> Any:
        rows = [
            {"stretch": json.dumps([(number, part.as_row()) for number, part in stretch])}
            for stretch in self._stretches
        ]
        _quiet()
        pool = ray.data.ActorPoolStrategy(
            size=self._work.workers,
            max_concurrent_calls_per_actor=_STRETCHES_PER_WORKER,
        )
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MOST_BLOCKS))
        return dataset.map_batches(
            PartEncoder,
            batch_size=1,
            compute=pool,
            num_cpus=_worker_cpus(self._work.workers),
            fn_constructor_args=(self._work,),
        )

    def _look(self, before: Tally) -> Tally:
        try:
            found: Tally = ray.get(self._work.board.total.remote(), timeout=5.0)
        except Exception:  # only the progress line misses it
            return before
        return found


def _worker_cpus(workers: int) -> float:
    """Returns what a worker asks for: nothing where models hold all cores, or none would ever start."""
    free = ray.available_resources().get("CPU", 0.0)
    return WORKER_CPUS if free >= workers * WORKER_CPUS else 0.0


def _quiet() -> None:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.data.dataset"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what fails, we say


def _explained(error: BaseException) -> JobError:
    """The worker's own words, from beneath Ray's wrapping."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, JobError):
            return cause
        if isinstance(cause, EmbedfleetError):
            return JobError(str(cause.args[0]))
        cause = getattr(cause, "cause", None) or cause.__cause__
    return JobError(f"the job failed: {error}; what is committed stays, run it again to go on")


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
