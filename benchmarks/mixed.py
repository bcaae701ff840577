"""Does a corpus job hurt live traffic? Online latency alone, and beside saturating offline work.

    python -m benchmarks.mixed

Online: one query a request, arriving at random at 20% of what the service can answer. Offline: four
callers that send 64 passages after 64 passages.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.closed import wrk
from benchmarks.harness import MODEL, QUERY, micro_batch_s, percentile, report, service
from benchmarks.load import Load, Loaded, run
from tests.docstrings import all_docstrings
from tests.running import RunningService

SECONDS = 20.0
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


def main() -> None:
    """Prints the table."""
    with service() as running:
        url = f"{running.url}/v1/embeddings"
        capacity = wrk(url, ONLINE, connections=32).rate
        load = Load(url, [ONLINE], 0.2 * capacity, SECONDS)
        alone = run(load)
        offline_alone, _ = beside_offline(running, SECONDS, None)
        offline_beside, beside = beside_offline(running, SECONDS, load)
        micro_batch = micro_batch_s(running)
    assert beside is not None
    rows = [
        ("online alone", *_online(alone), "-"),
        ("offline alone", "-", "-", "-", "-", f"{offline_alone.rate:.0f}"),
        ("both", *_online(beside), f"{offline_beside.rate:.0f}"),
    ]
    added = percentile(beside.latencies(), 99) - percentile(alone.latencies(), 99)
    report(
        "mixed",
        ("WHAT", "REQ/S", "P50 MS", "P99 MS", "ERRORS", "OFFLINE TEXTS/S"),
        rows,
        capacity_req_s=round(capacity),
        one_micro_batch_ms=round(micro_batch * 1e3),
        added_to_p99_in_micro_batches=round(added / micro_batch, 2),
        offline_keeps=round(offline_beside.rate / offline_alone.rate, 2),
        generator_cpu_s=round(alone.cpu_s + beside.cpu_s, 1),
    )


def _online(loaded: Loaded) -> tuple[str, str, str, int]:
    times = loaded.latencies()
    return (
        f"{len(loaded.outcomes) / SECONDS:.0f}",
        f"{percentile(times, 50) * 1e3:.1f}",
        f"{percentile(times, 99) * 1e3:.1f}",
        len(loaded.outcomes) - len(times),
    )


if __name__ == "__main__":
    main()
