"""A Ray Data pipeline with `embedfleet.data.embed`, beside `embedfleet encode` over the same rows.

    python -m benchmarks.stage [--rows N] [--characters N] [--rounds N]

The texts are docstrings, cut to a number of characters so that many rows take little time. Both read one
Parquet file and write Parquet; they take turns against the same service. Rates are of the whole run, the
start included. Memory is that of the stage's workers, half-way and at the end.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import ray
from pyarrow import parquet as pq

import embedfleet.data
from benchmarks.common.reporting import median_ratio, parser, report, spread
from benchmarks.common.service import MODEL, service
from benchmarks.encode import Job, corpus, run_job
from testing.processes import marked, memory_mib
from testing.running import RunningService
from testing.shared_service import join

_LOOK_EVERY_S = 0.5
_ROWS_PER_GROUP = 2_000


@dataclass
class Stage:
    """One run of the pipeline: its seconds, and the workers' memory (MiB) from time to time."""

    seconds: float = 0.0
    memory: list[float] = field(default_factory=list)


def run_stage(running: RunningService, texts: list[str], folder: Path) -> Stage:
    """Runs read_parquet → embed → write_parquet in a new folder; exits if a row is missing."""
    folder.mkdir()
    source, output = folder / "texts.parquet", folder / "out"
    pq.write_table(pa.table({"text": texts}), source, row_group_size=_ROWS_PER_GROUP)
    stage, ended = Stage(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(stage, running, ended))
    watcher.start()
    started = time.perf_counter()
    rows = ray.data.read_parquet(
        str(source), override_num_blocks=max(1, len(texts) // _ROWS_PER_GROUP)
    )
    embedfleet.data.embed(rows, model=MODEL, text_column="text", truncate=True).write_parquet(
        str(output)
    )
    stage.seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    written = pq.read_table(output, columns=["embedding_error"])
    if len(written) != len(texts) or written["embedding_error"].null_count != len(texts):
        raise SystemExit(f"{len(written)} rows of {len(texts)}, some without a vector")
    return stage


def _watch(stage: Stage, running: RunningService, ended: threading.Event) -> None:
    while not ended.wait(_LOOK_EVERY_S):
        workers = marked(running.process.pid, "MapWorker")
        stage.memory.append(sum(memory_mib(pid) for pid in workers))


def main() -> None:
    """Prints the table."""
    options = parser("stage", __doc__)
    options.add_argument("--rows", type=int, default=50_000)
    options.add_argument("--characters", type=int, default=120)
    options.add_argument("--rounds", type=int, default=2)
    args = options.parse_args()
    texts = [text.lstrip()[: args.characters] for text in corpus(args.rows)]
    stages: list[Stage] = []
    jobs: list[Job] = []
    # as by default: Ray Data needs the core that the replica leaves
    with service(router_cpus=0) as running, tempfile.TemporaryDirectory() as folder:
        join(running)
        ray.data.DataContext.get_current().enable_progress_bars = False
        for number in range(args.rounds):
            stages.append(run_stage(running, texts, Path(folder) / f"stage{number}"))
            jobs.append(run_job(running, texts, Path(folder) / f"job{number}"))
        ray.shutdown()
    stage_s, job_s = [s.seconds for s in stages], [j.seconds for j in jobs]
    memory = [s.memory for s in stages]
    report(
        "stage",
        ("WAY", "SECONDS", "TEXTS/S", "TO ENCODE", "WORKERS' MIB HALF-WAY", "AT MOST"),
        [
            (
                "embedfleet.data.embed",
                spread(stage_s),
                spread([len(texts) / s for s in stage_s]),
                f"{median_ratio(job_s, stage_s):.2f}",
                spread([m[len(m) // 2] for m in memory]),
                spread([max(m) for m in memory]),
            ),
            (
                "embedfleet encode",
                spread(job_s),
                spread([len(texts) / s for s in job_s]),
                "1",
                "-",
                "-",
            ),
        ],
        texts=len(texts),
    )


if __name__ == "__main__":
    main()
