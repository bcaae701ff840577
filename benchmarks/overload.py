"""Up to ten times the load that can be served: goodput, refusals, memory, recovery.

    python -m benchmarks.overload [--short]

Requests of 32 passages arrive at random at 0.5, 1, 2 and 10 times the rate that a closed loop gets
through, whatever the service answers. With --short, requests of one query at 0.5, 1 and 2 times
that rate: then the router is the bottleneck, and the load generator takes a core.
"""

from __future__ import annotations

import statistics
import subprocess
import time

from benchmarks.common.load import Load, OpenLoop, closed_loop, open_loop
from benchmarks.common.reporting import parser, percentile, report
from benchmarks.common.service import MODEL, ONE_QUERY, QUERY, service
from benchmarks.common.texts import paragraphs
from testing.processes import replicas
from testing.running import RunningService

SECONDS = 25.0
TEXTS_PER_REQUEST = 32
RECOVERY_TIMEOUT_S = 60.0
FACTORS, SHORT_FACTORS = (0.5, 1.0, 2.0, 10.0), (0.5, 1.0, 2.0)
HEADER = (
    "LOAD",
    "ARRIVED",
    "200",
    "429",
    "OTHER",
    "GOODPUT REQ/S",
    "P99 S",
    "RETRY-AFTER S",
    "MIB",
)


def bodies() -> list[dict[str, object]]:
    """Returns requests of 32 passages each."""
    texts = paragraphs()
    starts = range(0, len(texts) - TEXTS_PER_REQUEST, TEXTS_PER_REQUEST)
    common = {"model": MODEL, "truncate": True, "encoding_format": "base64"}
    return [{**common, "input": texts[i : i + TEXTS_PER_REQUEST]} for i in starts]


def memory_mib(running: RunningService) -> float:
    """Returns the resident memory of the service's replicas."""
    pids = ",".join(map(str, replicas(running)))
    command = ["ps", "-o", "rss=", "-p", pids]
    return sum(map(int, subprocess.check_output(command, text=True).split())) / 1024


def main() -> None:
    """Prints the table."""
    options = parser("overload", __doc__)
    options.add_argument("--short", action="store_true", help="requests of one query")
    is_short = options.parse_args().short
    requests, connections = ([ONE_QUERY], 64) if is_short else (bodies(), 16)
    factors = SHORT_FACTORS if is_short else FACTORS
    rows, goodputs = [], []
    with service() as running:
        url = f"{running.url}/v1/embeddings"
        idle_s = closed_loop(url, ONE_QUERY, 1, 4).p50_s
        capacity = closed_loop(url, requests[0], connections, 15).rate
        for factor in factors:
            loop = open_loop(Load(url, requests, factor * capacity, SECONDS))
            goodputs.append(_goodput(loop))
            rows.append((*_row(factor, loop), f"{memory_mib(running):.0f}"))
        idle_after_s = recovery_s(running, idle_s)
    retry_after_s, worked_off_s = last_refusal(loop)
    report(
        "overload_short" if is_short else "overload",
        HEADER,
        rows,
        capacity_req_s=round(capacity, 1),
        goodput_at_the_end_to_its_peak=round(goodputs[-1] / max(goodputs), 2),
        idle_p50_ms=round(idle_s * 1e3, 1),
        idle_again_after_s=round(idle_after_s, 1),
        last_retry_after_s=round(retry_after_s, 1),
        backlog_worked_off_after_s=round(worked_off_s, 1),
    )


def _goodput(loop: OpenLoop) -> float:
    ends = [o.due_s + o.latency_s for o in loop.outcomes if o.status == 200]
    return len(ends) / max(ends, default=1.0)


def _row(factor: float, loop: OpenLoop) -> tuple[object, ...]:
    accepted, refused = loop.count(200), loop.count(429)
    waits = [o.retry_after_s for o in loop.outcomes if o.retry_after_s is not None]
    return (
        f"{factor:g}x",
        len(loop.outcomes),
        accepted,
        refused,
        len(loop.outcomes) - accepted - refused,
        f"{_goodput(loop):.1f}",
        f"{percentile(loop.latencies(), 99):.1f}",
        f"{statistics.median(waits):.1f}" if waits else "-",
    )


def last_refusal(loop: OpenLoop) -> tuple[float, float]:
    """Returns the last Retry-After, and the seconds from then until the backlog was worked off."""
    refusals = [o for o in loop.outcomes if o.retry_after_s]
    if not refusals:
        return float("nan"), float("nan")
    last = max(refusals, key=lambda o: o.due_s + o.latency_s)
    ends = [o.due_s + o.latency_s for o in loop.outcomes if o.status == 200]
    return float(last.retry_after_s or 0.0), max(ends) - last.due_s - last.latency_s


def recovery_s(running: RunningService, idle_s: float) -> float:
    """Returns the seconds until a query is answered within twice the idle time again."""
    started = time.perf_counter()
    with running.client() as http:
        while time.perf_counter() - started < RECOVERY_TIMEOUT_S:
            sent = time.perf_counter()
            http.post("/v1/embeddings", json={"model": MODEL, "input": QUERY})
            if time.perf_counter() - sent < 2 * idle_s + 0.005:
                break
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
