"""Live traffic beside the corpus job: online latency alone, and while the job runs.

One query a request, arriving at random at 20% of what the service can answer. Alone for a while, then
during a whole job; counted from the job's first part on, so that its start-up on the same cores is
not taken for its encoding. Refusals count from its very start.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.closed_loop import wrk
from benchmarks.corpus_job import Job, encode
from benchmarks.harness import MODEL, QUERY, micro_batch_s, percentile
from benchmarks.open_loop import Load, Outcome, run
from testing.running import RunningService

SHARE = 0.2
ALONE_S = 20.0
ONLINE = {"model": MODEL, "input": QUERY, "encoding_format": "base64"}


@dataclass(frozen=True)
class Online:
    """What came of the online requests of a while; ``refused`` had no answer, or not status 200."""

    outcomes: list[Outcome]
    refused: int

    def row(self, what: str, texts_per_s: str) -> tuple[str, int, str, str, int, str]:
        """Returns a line of the table."""
        p50, p99 = (f"{self.percentile(p) * 1e3:.1f}" for p in (50, 99))
        return what, len(self.outcomes), p50, p99, self.refused, texts_per_s

    def percentile(self, percent: int) -> float:
        """Returns seconds."""
        return percentile([o.latency_s for o in self.outcomes if o.status == 200], percent)


@dataclass(frozen=True)
class Live:
    """Both measurements, and what they are held against."""

    capacity: float
    micro_batch_s: float
    alone: Online
    beside: Online
    job: Job

    @property
    def added_micro_batches(self) -> float:
        """What the job adds to the online p99, in micro-batches."""
        return (self.beside.percentile(99) - self.alone.percentile(99)) / self.micro_batch_s


def live(running: RunningService, texts: list[str], folder: Path, job_s: float) -> Live:
    """Measures online traffic alone, and then beside a job that takes ``job_s`` when alone."""
    url = f"{running.url}/v1/embeddings"
    capacity = wrk(url, ONLINE, connections=32).rate
    load = Load(url, [ONLINE], SHARE * capacity, ALONE_S)
    alone = run(load).outcomes
    # one process all along: where a new one starts, it takes a core from the service
    job, timed = _beside(running, texts, folder, replace(load, seconds=2.5 * job_s))
    while_working = [o for at, o in timed if job.working <= at < job.ended]
    return Live(
        capacity,
        micro_batch_s(running),
        Online(alone, _refused(alone)),
        Online(while_working, _refused([o for _, o in timed])),
        job,
    )


def _beside(
    running: RunningService, texts: list[str], folder: Path, load: Load
) -> tuple[Job, list[tuple[float, Outcome]]]:
    """The job, and each online request with the moment it was due."""
    timed: list[tuple[float, Outcome]] = []
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(encode, running, texts, folder)
        while not job.done():
            outcomes = run(replace(load, seed=len(timed) + 1)).outcomes
            # the load's own process keeps the clock: its last answer has only just come
            began = time.perf_counter() - max(o.due_s + o.latency_s for o in outcomes)
            timed += [(began + o.due_s, o) for o in outcomes]
        return job.result(), timed


def _refused(outcomes: list[Outcome]) -> int:
    return sum(o.status != 200 for o in outcomes)
