"""Runs a corpus job: Ray Data works in a thread, and the calling thread watches its progress."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import ray

from cluster.corpus.connect import IN_PYTHON, JobModel, Wording, why_waiting
from cluster.corpus.cpus import worker_cpus
from cluster.corpus.dedupe import IdIndex
from cluster.corpus.errors import JobError
from cluster.corpus.plan.parts import Part, part_runs
from cluster.corpus.progress import Progress, RateMeter, Snapshot, clock
from cluster.corpus.work import PartResult, Work
from cluster.corpus.worker import PartWorker
from cluster.corpus.write.manifest import Counts

# one part is encoded while the next is read and the last one written
_RUNS_PER_WORKER = 2
_MAX_BLOCKS = 2_000
_WATCH_EVERY_S = 0.5
_STALLED_S = 10.0


def _say_nothing(_: str) -> None:
    """For callers that do not ask."""


@dataclass(frozen=True)
class Run:
    """How a job is run, which does not change its vectors.

    ``address`` is Ray's, ``url`` the service's, if it runs on this machine. ``wait_s`` is how long a
    service that stops answering is waited for. ``watch`` is called with the progress twice a second,
    ``say`` with what the user should know, ``on_connect`` once the process is connected to Ray, and
    ``on_model`` with the model, once it has loaded.
    ``wording`` is for messages about ``address`` and ``url``.
    """

    address: str | None = None
    workers: int | None = None
    price_per_replica_hour: float | None = None
    wait_s: float = 900.0
    watch: Callable[[Snapshot], None] | None = None
    say: Callable[[str], None] = _say_nothing
    on_model: Callable[[JobModel], None] | None = None
    url: str | None = None
    wording: Wording = IN_PYTHON
    on_connect: Callable[[], None] | None = None


class Execution:
    """One job at work. The dataset is consumed in a thread, so that the calling thread can watch."""

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        work: Work,
        parts: list[Part],
        run: Run,
        index: IdIndex,
        model: JobModel,
        check: Callable[[], None],
    ) -> None:
        """``check`` is called now and then, and raises JobError if the job must not go on."""
        self._runs = part_runs(parts, work.workers * _RUNS_PER_WORKER)
        # the workers that get a run share all calls among them
        self._work = replace(work, workers=min(work.workers, len(self._runs)))
        self._index = index
        self._parts = parts
        self._run = run
        self._model = model
        self._check = check
        self._counts = Counts()
        self._notes: list[str] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._consume, daemon=True)

    def result(self) -> tuple[Counts, Progress, float]:
        """Runs to the end. Returns the counts of all parts, this run's progress, and replica-hours."""
        try:
            return self._watch()
        except BaseException:
            with suppress(Exception):  # Ray may have gone
                self._work.collector.abandon.remote()
            raise

    def _watch(self) -> tuple[Counts, Progress, float]:
        started = last = time.monotonic()
        stall, meter = StallDetector(self._why_waiting, started), RateMeter()
        hours, progress = 0.0, Progress(replicas=self._work.replicas)
        now = self._first_snapshot()
        self._thread.start()
        alive = True
        while alive:
            self._thread.join(_WATCH_EVERY_S)
            alive = self._thread.is_alive()
            progress, at = self._latest(progress), time.monotonic()
            hours += progress.replicas * (at - last) / 3_600
            last = at
            self._check()
            while self._notes:
                self._run.say(self._notes.pop(0))
            now = replace(
                now,
                progress=progress,
                seconds=at - started,
                rates=meter.rates(progress, at),
                replica_hours=hours,
                waiting=stall.reason(progress, at),
            )
            self._give_up_after(stall.seconds(at), now.waiting)
            if self._run.watch and self._error is None:
                self._run.watch(now)
        if self._error is not None:
            raise _job_error(self._error) from self._error
        return self._counts, progress, hours

    def _first_snapshot(self) -> Snapshot:
        names = self._work.output.part_names()
        kept = float(sum(part.weight for part in self._parts if part.name in names))
        total = float(sum(part.weight for part in self._parts))
        is_parquet = self._parts[0].file.format == "parquet"
        rows = sum(part.stop - part.start for part in self._parts) if is_parquet else None
        price = self._run.price_per_replica_hour
        return Snapshot(Progress(), total, 0.0, kept=kept, rows=rows, price=price)

    def _give_up_after(self, stalled_s: float, waiting: str | None) -> None:
        if waiting and stalled_s > self._run.wait_s:
            raise JobError(
                f"no progress for {clock(stalled_s)}: {waiting}. All parts that were written are kept. "
                "Run the same command again once the service answers, or with a longer --wait"
            )

    def _why_waiting(self) -> str | None:
        return why_waiting(self._model)

    def _consume(self) -> None:
        try:
            for row in self._dataset().iter_rows():
                result = PartResult.from_row(row)
                if result.note:
                    self._notes.append(result.note)
                if result.error:
                    raise JobError(result.error)
                self._counts += result.counts
                self._index.add(result.number, result.ids)
        except BaseException as error:
            self._error = error

    def _dataset(self) -> Any:
        rows = [
            {"run": json.dumps([(number, part.as_row()) for number, part in run])}
            for run in self._runs
        ]
        _silence_ray_data()
        pool = ray.data.ActorPoolStrategy(
            size=self._work.workers,
            max_concurrent_calls_per_actor=_RUNS_PER_WORKER,
        )
        dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
        return dataset.map_batches(
            PartWorker,
            batch_size=1,
            compute=pool,
            num_cpus=worker_cpus(self._work.workers),
            fn_constructor_args=(self._work,),
        )

    def _latest(self, before: Progress) -> Progress:
        try:
            progress: Progress = ray.get(self._work.collector.total.remote(), timeout=5.0)
        except Exception:  # only the progress line depends on it
            return before
        return progress


def _silence_ray_data() -> None:
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray.data", "ray.data.dataset"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are reported as JobError


def _job_error(error: BaseException) -> JobError:
    """Returns an error of Ray in a line; Ray itself adds addresses, advice and tracebacks."""
    if isinstance(error, JobError):
        return error
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return JobError(
        f"the job failed: {type(error).__name__}: {first}; all parts that were written are kept. Run the "
        "same command again to continue"
    )


class StallDetector:
    """Notices that a job makes no progress, and asks the service why, in a thread: it may not answer."""

    def __init__(self, ask: Callable[[], str | None], now: float) -> None:
        self._ask = ask
        self._last = Progress()
        self._moved_at = self._checked_at = now
        self._thread: threading.Thread | None = None
        self._answer: tuple[float, str | None] = (now, None)

    def reason(self, progress: Progress, now: float) -> str | None:
        """Returns why the job makes no progress; None if it does, or if the reason is not known."""
        progress = replace(progress, replicas=0)  # their number changes without any work
        if progress != self._last:
            self._last, self._moved_at, self._checked_at = progress, now, now
        elif now - self._checked_at >= _STALLED_S and not self._is_asking():
            self._checked_at = now
            self._thread = threading.Thread(target=self._ask_service, args=(now,), daemon=True)
            self._thread.start()
        asked_at, why = self._answer
        return why if asked_at > self._moved_at else None

    def seconds(self, now: float) -> float:
        """Returns how long the job has made no progress."""
        return now - self._moved_at

    def _is_asking(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _ask_service(self, asked_at: float) -> None:
        self._answer = asked_at, self._ask()
