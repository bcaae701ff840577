"""Live traffic beside offline work: what each costs the other.

    python -m benchmarks.mixed [--rounds N] [--threads N] [--rerank]

Online: one query a request, arriving at random at 20% of the rate that the service can answer.
Offline: four callers that each send 64 passages after 64 passages. With --rerank, one caller sends
large online requests in their place: reranks of 1,000 passages by cosine, with the same model. Each is
measured alone and beside the other in every round. Figures are the median, the least and the most of the
rounds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.common.load import Load, OpenLoop, closed_loop, open_loop
from benchmarks.common.machine import describe_pauses, pauses_watched
from benchmarks.common.reporting import parser, percentile, report, spread
from benchmarks.common.service import MODEL, ONE_QUERY, QUERY, micro_batch_s, service
from benchmarks.common.texts import paragraphs
from testing.running import RunningService

SECONDS = 12.0


@dataclass(frozen=True)
class Work:
    """Requests of ``texts`` passages, which some callers send one after another."""

    name: str
    route: str
    field: str
    callers: int
    texts: int
    options: Mapping[str, object]


OFFLINE = Work(
    "offline",
    "/v1/embeddings",
    "input",
    callers=4,
    texts=64,
    options={"priority": "offline", "truncate": True, "encoding_format": "base64"},
)
RERANK = Work(
    "rerank",
    "/v1/rerank",
    "documents",
    callers=1,
    texts=1_000,
    options={"query": QUERY, "truncate": True},
)


@dataclass
class Offline:
    """What the callers beside the online load got through."""

    texts: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Texts a second."""
        return self.texts / self.seconds if self.seconds else 0.0


def saturate(running: RunningService, work: Work, stop: threading.Event) -> Offline:
    """Sends requests from all callers until ``stop`` is set."""
    done = Offline()
    texts, lock, started = paragraphs(), threading.Lock(), time.perf_counter()

    def call(number: int) -> None:
        start = number * work.texts
        with running.client() as http:
            while not stop.is_set():
                batch = texts[start : start + work.texts]
                body = {"model": MODEL, work.field: batch, **work.options}
                http.post(work.route, json=body, timeout=120).raise_for_status()
                with lock:
                    done.texts += work.texts
                    done.seconds = time.perf_counter() - started
                start = (start + work.callers * work.texts) % (len(texts) - work.texts)

    with ThreadPoolExecutor(work.callers) as pool:
        list(pool.map(call, range(work.callers)))
    return done


def beside_offline(
    running: RunningService, work: Work, seconds: float, load: Load | None
) -> tuple[Offline, OpenLoop | None]:
    """Runs the callers for a while, with or without an online load beside them."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        offline = pool.submit(saturate, running, work, stop)
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


def measure(running: RunningService, work: Work, load: Load) -> Round:
    """Runs the three loads one after another."""
    online_alone = open_loop(load)
    offline_alone, _ = beside_offline(running, work, SECONDS, None)
    offline_beside, online_beside = beside_offline(running, work, SECONDS, load)
    assert online_beside is not None
    seconds = micro_batch_s(running)
    return Round(online_alone, online_beside, offline_alone, offline_beside, seconds)


def main() -> None:
    """Prints the table."""
    options = parser("mixed", __doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", help="of the replica, a number; default: auto")
    options.add_argument("--rerank", action="store_true", help="large online requests, not offline")
    args = options.parse_args()
    work = RERANK if args.rerank else OFFLINE
    with service(threads=args.threads or "auto") as running, pauses_watched() as pauses:
        url = f"{running.url}/v1/embeddings"
        capacity = closed_loop(url, ONE_QUERY, connections=32).rate
        loads = [
            Load(url, [ONE_QUERY], 0.2 * capacity, SECONDS, seed=seed)
            for seed in range(args.rounds)
        ]
        rounds = [measure(running, work, load) for load in loads]
    offline_alone = spread([r.offline_alone.rate for r in rounds])
    offline_beside = spread([r.offline_beside.rate for r in rounds])
    report(
        "mixed",
        ("WORK", "REQ/S", "P50 MS", "P99 MS", "ERRORS", f"{work.name.upper()} TEXTS/S"),
        [
            ("online alone", *_online([r.online_alone for r in rounds]), "-"),
            (f"{work.name} alone", "-", "-", "-", "-", offline_alone),
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
