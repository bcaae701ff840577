"""Live traffic beside offline work: what each costs the other.

    python -m benchmarks.mixed [--rounds N] [--threads N]

Online: one query a request, arriving at random at 20% of the rate that the service can answer.
Offline: four callers that each send 64 passages after 64 passages. Each is measured alone and
beside the other in every round. Figures are the median, the least and the most of the rounds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.common.load import Load, OpenLoop, closed_loop, open_loop
from benchmarks.common.machine import describe_pauses, pauses_watched
from benchmarks.common.reporting import parser, percentile, report, spread
from benchmarks.common.service import MODEL, ONE_QUERY, micro_batch_s, service
from benchmarks.common.texts import paragraphs
from testing.running import RunningService

SECONDS = 12.0
CALLERS = 4
TEXTS_PER_REQUEST = 64
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


def saturate(running: RunningService, stop: threading.Event) -> Offline:
    """Sends offline requests from all callers until ``stop`` is set."""
    done = Offline()
    texts, lock, started = paragraphs(), threading.Lock(), time.perf_counter()

    def call(number: int) -> None:
        start = number * TEXTS_PER_REQUEST
        with running.client() as http:
            while not stop.is_set():
                batch = texts[start : start + TEXTS_PER_REQUEST]
                body = {"model": MODEL, "input": batch, **OFFLINE}
                http.post("/v1/embeddings", json=body).raise_for_status()
                with lock:
                    done.texts += TEXTS_PER_REQUEST
                    done.seconds = time.perf_counter() - started
                start = (start + CALLERS * TEXTS_PER_REQUEST) % (len(texts) - TEXTS_PER_REQUEST)

    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(call, range(CALLERS)))
    return done


def beside_offline(
    running: RunningService, seconds: float, load: Load | None
) -> tuple[Offline, OpenLoop | None]:
    """Runs the offline callers for a while, with or without an online load beside them."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        offline = pool.submit(saturate, running, stop)
        time.sleep(2)
        try:
            online = open_loop(load) if load else None
            time.sleep(0 if load else seconds)
        finally:
            stop.set()
        return offline.result(), online


@dataclass(frozen=True)
class Round:
    """Online and offline work, each alone and beside the other."""

    online_alone: OpenLoop
    online_beside: OpenLoop
    offline_alone: Offline
    offline_beside: Offline
    micro_batch_s: float

    @property
    def added_to_p99(self) -> float:
        """What offline work adds to online p99, in micro-batches."""
        alone, beside = (
            percentile(loop.latencies(), 99) for loop in (self.online_alone, self.online_beside)
        )
        return (beside - alone) / self.micro_batch_s

    @property
    def offline_keeps(self) -> float:
        """The share of its speed that offline work keeps beside online work."""
        return self.offline_beside.rate / self.offline_alone.rate


def measure(running: RunningService, load: Load) -> Round:
    """Runs the three loads one after another."""
    online_alone = open_loop(load)
    offline_alone, _ = beside_offline(running, SECONDS, None)
    offline_beside, online_beside = beside_offline(running, SECONDS, load)
    assert online_beside is not None
    seconds = micro_batch_s(running)
    return Round(online_alone, online_beside, offline_alone, offline_beside, seconds)


def main() -> None:
    """Prints the table."""
    options = parser("mixed", __doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", help="of the replica, a number; default: auto")
    args = options.parse_args()
    with service(threads=args.threads or "auto") as running, pauses_watched() as pauses:
        url = f"{running.url}/v1/embeddings"
        capacity = closed_loop(url, ONE_QUERY, connections=32).rate
        loads = [
            Load(url, [ONE_QUERY], 0.2 * capacity, SECONDS, seed=seed)
            for seed in range(args.rounds)
        ]
        rounds = [measure(running, load) for load in loads]
    offline_alone = spread([r.offline_alone.rate for r in rounds])
    offline_beside = spread([r.offline_beside.rate for r in rounds])
    report(
        "mixed",
        ("WORK", "REQ/S", "P50 MS", "P99 MS", "ERRORS", "OFFLINE TEXTS/S"),
        [
            ("online alone", *_online([r.online_alone for r in rounds]), "-"),
            ("offline alone", "-", "-", "-", "-", offline_alone),
            ("both", *_online([r.online_beside for r in rounds]), offline_beside),
        ],
        capacity_req_s=round(capacity),
        one_micro_batch_ms=spread([1e3 * r.micro_batch_s for r in rounds]),
        added_to_p99_in_micro_batches=spread([r.added_to_p99 for r in rounds], 2),
        offline_keeps=spread([r.offline_keeps for r in rounds], 2),
        generator_cpu_s=round(sum(r.online_alone.cpu_s + r.online_beside.cpu_s for r in rounds), 1),
        pauses_of_the_machine=describe_pauses(pauses),
    )


def _online(loops: Sequence[OpenLoop]) -> tuple[str, str, str, int]:
    latencies = [loop.latencies() for loop in loops]
    sent = [len(loop.outcomes) for loop in loops]
    return (
        spread([count / SECONDS for count in sent]),
        spread([percentile(times, 50) * 1e3 for times in latencies], 1),
        spread([percentile(times, 99) * 1e3 for times in latencies], 1),
        sum(sent) - sum(map(len, latencies)),
    )


if __name__ == "__main__":
    main()
