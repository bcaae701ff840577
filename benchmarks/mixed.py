"""Does a corpus job hurt live traffic? Online latency alone, and beside saturating offline work.

    python -m benchmarks.mixed [--rounds N] [--threads N]

Online: one query a request, arriving at random at 20% of what the service can answer. Offline: four
callers that send 64 passages after 64 passages. Medians of the rounds, with the least and the most.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.closed_loop import wrk
from benchmarks.harness import MODEL, QUERY, micro_batch_s, percentile, report, service
from benchmarks.open_loop import Load, Loaded, run
from benchmarks.pauses import told, watched
from benchmarks.reporting import spread
from testing.docstrings import all_docstrings
from testing.running import RunningService

SECONDS = 12.0
CALLERS = 4
A_REQUEST = 64
ONLINE = {"model": MODEL, "input": QUERY, "encoding_format": "base64"}
OFFLINE = {"priority": "offline", "truncate": True, "encoding_format": "base64"}


@dataclass
class Offline:
    """What the offline callers got through."""

    texts: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Texts a second."""
        return self.texts / self.seconds if self.seconds else 0.0


def passages() -> list[str]:
    """Returns passages of 30 to 150 words."""
    return [d for d in all_docstrings() if 30 <= len(d.split()) <= 150]


def saturate(running: RunningService, stop: threading.Event) -> Offline:
    """Sends offline requests from all callers until told to stop."""
    done = Offline()
    texts, lock, started = passages(), threading.Lock(), time.perf_counter()

    def caller(number: int) -> None:
        start = number * A_REQUEST
        with running.client() as http:
            while not stop.is_set():
                body = {"model": MODEL, "input": texts[start : start + A_REQUEST], **OFFLINE}
                http.post("/v1/embeddings", json=body).raise_for_status()
                with lock:
                    done.texts += A_REQUEST
                    done.seconds = time.perf_counter() - started
                start = (start + CALLERS * A_REQUEST) % (len(texts) - A_REQUEST)

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(caller, range(CALLERS)))
    return done


def beside_offline(
    running: RunningService, seconds: float, load: Load | None
) -> tuple[Offline, Loaded | None]:
    """Runs the offline callers for a while, with an online load beside them or without."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        offline = pool.submit(saturate, running, stop)
        time.sleep(2)
        try:
            online = run(load) if load else time.sleep(seconds)
        finally:
            stop.set()
        return offline.result(), online


@dataclass(frozen=True)
class Round:
    """Latencies of online requests (seconds) alone and beside; offline texts/s alone and beside."""

    alone: Loaded
    beside: Loaded
    offline_alone: Offline
    offline_beside: Offline
    micro_batch_s: float

    @property
    def added(self) -> float:
        """What offline work adds to online p99, in micro-batches."""
        p99 = [percentile(loaded.latencies(), 99) for loaded in (self.alone, self.beside)]
        return (p99[1] - p99[0]) / self.micro_batch_s

    @property
    def keeps(self) -> float:
        """The part of its speed that offline work keeps beside online."""
        return self.offline_beside.rate / self.offline_alone.rate


def measure(running: RunningService, load: Load) -> Round:
    """Runs the three loads one after another."""
    alone = run(load)
    offline_alone, _ = beside_offline(running, SECONDS, None)
    offline_beside, beside = beside_offline(running, SECONDS, load)
    assert beside is not None
    return Round(alone, beside, offline_alone, offline_beside, micro_batch_s(running))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", help="of the replica, a number; default: auto")
    args = parser.parse_args()
    with service(threads=args.threads or "auto") as running, watched() as pauses:
        url = f"{running.url}/v1/embeddings"
        capacity = wrk(url, ONLINE, connections=32).rate
        loads = [
            Load(url, [ONLINE], 0.2 * capacity, SECONDS, seed=seed) for seed in range(args.rounds)
        ]
        rounds = [measure(running, load) for load in loads]
    rows = [
        ("online alone", *_online([r.alone for r in rounds]), "-"),
        ("offline alone", "-", "-", "-", "-", spread([r.offline_alone.rate for r in rounds])),
        (
            "both",
            *_online([r.beside for r in rounds]),
            spread([r.offline_beside.rate for r in rounds]),
        ),
    ]
    report(
        "mixed",
        ("WHAT", "REQ/S", "P50 MS", "P99 MS", "ERRORS", "OFFLINE TEXTS/S"),
        rows,
        capacity_req_s=round(capacity),
        one_micro_batch_ms=spread([1e3 * r.micro_batch_s for r in rounds]),
        added_to_p99_in_micro_batches=spread([r.added for r in rounds], 2),
        offline_keeps=spread([r.keeps for r in rounds], 2),
        generator_cpu_s=round(sum(r.alone.cpu_s + r.beside.cpu_s for r in rounds), 1),
        pauses_of_the_machine=told(pauses),
    )


def _online(rounds: Sequence[Loaded]) -> tuple[str, str, str, int]:
    times = [loaded.latencies() for loaded in rounds]
    sent = [len(loaded.outcomes) for loaded in rounds]
    return (
        spread([count / SECONDS for count in sent]),
        spread([percentile(t, 50) * 1e3 for t in times], 1),
        spread([percentile(t, 99) * 1e3 for t in times], 1),
        sum(sent) - sum(map(len, times)),
    )


if __name__ == "__main__":
    main()
