"""A corpus of real texts, and one `embedfleet encode` of it with the memory of its processes."""

from __future__ import annotations

import re
import subprocess
import sysconfig
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from benchmarks.harness import MODEL
from testing.docstrings import docstrings_below
from testing.encoding import command
from testing.processes import marked, memory_mib
from testing.running import RunningService

_LOOK_S = 0.5  # reading a process's maps takes 3 ms of the cores that the job works on


@dataclass
class Peak:
    """The most memory (MiB, proportional set size) that the driver and all workers together held."""

    driver: float = 0.0
    workers: float = 0.0


@dataclass
class Job:
    """One run of the command. Times are of `time.perf_counter`; ``inside`` are the job's own seconds.

    ``working`` is when its first part was there.
    """

    rows: int
    out: Path
    started: float
    working: float = 0.0
    ended: float = 0.0
    inside: int = 0
    peak: Peak = field(default_factory=Peak)

    @property
    def seconds(self) -> float:
        """From the start of the command to its end."""
        return self.ended - self.started

    @property
    def rate(self) -> float:
        """Texts a second from the first part on."""
        return self.rows / (self.ended - self.working)


def corpus(rows: int) -> list[str]:
    """Returns real texts in an order without system."""
    texts = docstrings_below(Path(sysconfig.get_path("stdlib")), rows)
    if len(texts) < rows:
        raise SystemExit(f"this Python has only {len(texts)} docstrings")
    order = np.random.default_rng(0).permutation(len(texts))[:rows]
    return [texts[i] for i in order]


def encode(running: RunningService, texts: list[str], folder: Path) -> Job:
    """Runs the command over these texts in a new folder."""
    folder.mkdir()
    pq.write_table(pa.table({"text": texts}), folder / "texts.parquet")
    args = (folder / "texts.parquet", folder / "out", "--model", MODEL, "--truncate")
    line, environment = command(running, *args, "--part-mb", 0.5)
    job = Job(len(texts), folder / "out", time.perf_counter())
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    watcher = threading.Thread(target=_watch, args=(job, process, running))
    watcher.start()
    words, _ = process.communicate()
    job.ended = time.perf_counter()
    watcher.join()
    found = re.search(r"tokens in (\d+):(\d+), ", words)
    if process.returncode or not found:
        raise SystemExit(f"the job failed: {words}")
    job.inside = int(found[1]) * 60 + int(found[2])
    return job


def _watch(job: Job, process: subprocess.Popen[str], running: RunningService) -> None:
    while process.poll() is None:
        if not job.working and any(job.out.glob("*.parquet")):
            job.working = time.perf_counter()
        job.peak.driver = max(job.peak.driver, _below(process.pid, ""))
        job.peak.workers = max(job.peak.workers, _below(running.process.pid, "MapWorker"))
        time.sleep(_LOOK_S)
    if not job.working or not job.peak.workers:
        raise SystemExit("the job was over before it could be watched: give it more rows")


def _below(root: int, marker: str) -> float:
    """The memory of the processes below one whose command line holds ``marker``."""
    return sum(memory_mib(pid) for pid in marked(root, marker))
