"""What the way from HTTP to the engine and back costs, with an engine that computes nothing.

    python -m benchmarks.path [--rounds N] [--rows N]

One service has the same model twice: one is called over connections, as always, the other by Serve's
handle. Each round measures both in turn: one query a request with 1, 16 and 64 callers, and 32 passages
of 50 words a request with 4. `GET /health` shows what HTTP alone costs the same router, in HAProxy's and
Serve's code. Then `embedfleet encode` runs over a corpus with each. The processor time
is that of the router's and the replica's processes, less what they take without requests, and of the
corpus job's workers; it is what sizes a machine in front of a GPU.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from benchmarks.common.load import closed_loop
from benchmarks.common.no_engine import BY_HANDLE
from benchmarks.common.reporting import parser, report
from benchmarks.common.service import QUERY
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from testing.encoding import encode
from testing.hashing import save_model
from testing.processes import marked, replicas
from testing.running import RunningService, running_service

CONNECTION = "by-connection"
HTTP_ALONE = "http-alone"
NAMES = {CONNECTION: "connection", BY_HANDLE: "Serve's handle"}
HEALTH = "/health"
CALLERS = (1, 16, 64)
PASSAGES, PASSAGE_CALLERS = 32, 4
SECONDS, IDLE_S = 6.0, 5.0
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Cost:
    """One load on one way: seconds of latency, requests a second, CPU seconds a request."""

    p50_s: float
    rate: float
    router_s: float
    replica_s: float


def cpu_s(pid: int) -> float:
    """Returns the processor time that a process has taken so far; 0 if it has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


def processes(service: RunningService, model: str) -> tuple[int, int]:
    """Returns the processes of the router and of a model's replica."""
    (router,) = replicas(service, "router")
    (replica,) = replicas(service, f"encoder-{model}")
    return router, replica


def idle_shares(service: RunningService, model: str) -> list[float]:
    """Returns the share of a core that router and replica take without requests."""
    pids = processes(service, model)
    before = [cpu_s(pid) for pid in pids]
    time.sleep(IDLE_S)
    return [(cpu_s(pid) - cpu) / IDLE_S for pid, cpu in zip(pids, before, strict=True)]


def measure(
    service: RunningService, model: str, body: Any, callers: int, idle: Sequence[float]
) -> Cost:
    """Returns what requests to one of the models cost beyond the ``idle`` shares of a core."""
    url = f"{service.url}{HEALTH if body is None else '/v1/embeddings'}"
    body = body and {"model": model, "encoding_format": "base64", **body}
    closed_loop(url, body, callers, 1)
    pids = processes(service, model)
    before, started = [cpu_s(pid) for pid in pids], time.monotonic()
    loop = closed_loop(url, body, callers, SECONDS)
    assert not loop.errors, f"{loop.errors} requests failed"
    taken = [cpu_s(pid) - cpu for pid, cpu in zip(pids, before, strict=True)]
    seconds, requests = time.monotonic() - started, loop.rate * SECONDS
    router_s, replica_s = (
        max(0.0, cpu - share * seconds) / requests for cpu, share in zip(taken, idle, strict=True)
    )
    return Cost(loop.p50_s, loop.rate, router_s, replica_s)


@contextmanager
def workers_watched(service: RunningService) -> Iterator[dict[int, float]]:
    """Yields a table that holds the processor time of each corpus worker, by pid, as last seen."""
    seen: dict[int, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_EVERY_S):
            workers = marked(service.process.pid, "MapWorker")
            seen.update({pid: cpu for pid in workers if (cpu := cpu_s(pid))})

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()


def corpus_job(service: RunningService, model: str, rows: int, folder: Path) -> tuple[float, int]:
    """Returns the processor time of a job's workers, their start included, and the job's tokens."""
    folder.mkdir()
    pq.write_table(pa.table({"text": passages(rows)}), folder / "texts.parquet")
    with workers_watched(service) as seen:
        summary = encode(service, folder / "texts.parquet", folder / "out", model, truncate=True)
    return sum(seen.values()), summary.manifest.counts.tokens


def corpus_cost_s(service: RunningService, model: str, rows: int) -> float:
    """Returns the workers' CPU seconds per million tokens, from a small and a large job's difference."""
    with tempfile.TemporaryDirectory() as name:
        small, large = (
            corpus_job(service, model, n, Path(name) / str(n)) for n in (rows // 10, rows)
        )
    return (large[0] - small[0]) / (large[1] - small[1]) * 1e6


def tokenizer_cost_s(folder: Path) -> float:
    """Returns the CPU seconds per million tokens of the tokenizer alone, in this process."""
    spec = find_model(CONNECTION, str(folder), weights=False).spec
    tokenizer = describe(spec, folder).fast_tokenizer()
    texts = passages(5_000)
    tokenizer.tokenize(texts[:100], truncate=True)
    before = time.process_time()
    batch = tokenizer.tokenize(texts, truncate=True).batch
    return (time.process_time() - before) / batch.tokens * 1e6


def passages(rows: int) -> list[str]:
    """Returns different passages of fifty words."""
    words = QUERY.split()
    return [" ".join(f"{words[(n + k) % 9]}" for k in range(49)) + f" {n}" for n in range(rows)]


def median(costs: Sequence[Cost], value: Callable[[Cost], float]) -> float:
    """Returns the median of one figure over the rounds."""
    return statistics.median(map(value, costs))


def row(load: str, way: str, costs: Sequence[Cost]) -> tuple[str, ...]:
    """Returns a line of the table."""
    router_s = median(costs, lambda cost: cost.router_s)
    return (
        load,
        NAMES.get(way, "–"),
        f"{median(costs, lambda cost: cost.p50_s) * 1e3:.2f}",
        f"{median(costs, lambda cost: cost.rate):.0f}",
        f"{router_s * 1e3:.2f}",
        f"{median(costs, lambda cost: cost.replica_s) * 1e3:.2f}",
        f"{1 / router_s:.0f}" if router_s else "–",
    )


def main() -> None:
    """Prints the tables."""
    options = parser("path", __doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--rows", type=int, default=40_000, help="of the corpus; 0 for none")
    args = options.parse_args()
    one = {"input": QUERY}
    loads: list[tuple[str, dict[str, Any], int]]
    loads = [(f"1 query, {n} callers", one, n) for n in CALLERS]
    many = {"input": passages(PASSAGES)}
    loads.append((f"{PASSAGES} passages, {PASSAGE_CALLERS} callers", many, PASSAGE_CALLERS))
    alone = [(f"GET {HEALTH}, {n} callers", n) for n in CALLERS]
    costs: dict[tuple[str, str], list[Cost]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = save_model(Path(name) / "model")
        models = [{"name": way, "path": str(folder)} for way in NAMES]
        app = {"import_path": "benchmarks.common.no_engine:build"}
        with running_service(models, list(NAMES), "auto", None, app, router_cpus=1) as service:
            idle = {way: idle_shares(service, way) for way in NAMES}
            router_idle = min(shares[0] for shares in idle.values())  # there is one router
            idle = {way: [router_idle, replica] for way, (_, replica) in idle.items()}
            for _ in range(args.rounds):
                for load, body, callers in loads:
                    for way in NAMES:
                        cost = measure(service, way, body, callers, idle[way])
                        costs.setdefault((load, way), []).append(cost)
                for load, callers in alone:
                    cost = measure(service, CONNECTION, None, callers, idle[CONNECTION])
                    costs.setdefault((load, HTTP_ALONE), []).append(cost)
            corpus = {
                NAMES[way]: round(corpus_cost_s(service, way, args.rows), 2)
                for way in NAMES
                if args.rows
            }
        tokenizer_s = round(tokenizer_cost_s(folder), 2)
    rows = [row(load, way, some) for (load, way), some in costs.items()]
    header = ("LOAD", "WAY", "P50 MS", "REQ/S", "ROUTER MS", "REPLICA MS", "REQ/S A ROUTER CORE")
    report(
        "path",
        header,
        rows,
        idle_shares_of_a_core=idle,
        worker_cpu_s_per_million_tokens=corpus,
        tokenizer_alone_cpu_s_per_million_tokens=tokenizer_s,
    )


if __name__ == "__main__":
    main()
