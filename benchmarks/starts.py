"""Whether a start beside other work leaves a service as fast as a quiet start does.

    python -m benchmarks.starts [--starts N]

A replica measures at its start how large a pass should be and whether a single text gains from lent
threads; on a busy machine it measures wrongly. So the service is started once on the machine as it is,
then N times while all cores are busy. Each is measured after that work has ended: one query at a time,
then 16 at once.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.common.load import closed_loop
from benchmarks.common.reporting import parser, report
from benchmarks.common.service import MODEL, ONE_QUERY
from testing.running import running_service

SETTLE_S, SECONDS = 10.0, 6.0


@dataclass(frozen=True)
class Start:
    """Seconds of latency with one caller, requests a second with 16, and what the replica measured."""

    p50_s: float
    rate: float
    token_budget: int
    tokens_per_s: int


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Keeps so many cores busy."""
    workers = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(cores)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def start(cores: int) -> Start:
    """Starts the service beside work on so many cores; measures it once that has ended."""
    models = [{"name": MODEL, "num_cpus": 1, "threads": "auto"}]
    with ExitStack() as stack:
        with busy(cores):
            service = stack.enter_context(running_service(models, [MODEL]))
        url = f"{service.url}/v1/embeddings"
        closed_loop(url, ONE_QUERY, 1, SETTLE_S)  # the passes correct what was measured
        one, many = (closed_loop(url, ONE_QUERY, callers, SECONDS) for callers in (1, 16))
        with service.client() as http:
            (card,) = http.get("/v1/models").json()["data"]
    return Start(one.p50_s, many.rate, card["token_budget"], card["tokens_per_s"])


def main() -> None:
    """Prints the table."""
    options = parser("starts", __doc__)
    options.add_argument("--starts", type=int, default=5)
    cores = os.cpu_count() or 1
    runs = [("quiet", start(0))]
    for number in range(options.parse_args().starts):
        runs.append((f"busy, {number + 1}", start(cores)))
        time.sleep(1)
    best = min(run.p50_s for _, run in runs)
    rows = [
        (
            name,
            f"{run.p50_s * 1e3:.2f}",
            f"{run.p50_s / best:.2f}",
            f"{run.rate:.0f}",
            run.token_budget,
            run.tokens_per_s,
        )
        for name, run in runs
    ]
    header = ("START", "P50 MS, 1 CALLER", "OF THE BEST", "REQ/S, 16", "TOKEN BUDGET", "TOKENS/S")
    report("starts", header, rows)


if __name__ == "__main__":
    main()
