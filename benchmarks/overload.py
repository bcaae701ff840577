"""What happens at ten times the load that can be served? Goodput, refusals, memory, recovery.

    python -m benchmarks.overload [--short]

Open loop: requests of 32 passages arrive at random at 0.5, 1, 2 and 10 times the rate that closed
loops get through, whatever the service answers. With --short, requests of one query at 0.5, 1 and 2
times: there the router is what is full, and the load generator takes a core.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time

from benchmarks.closed_loop import wrk
from benchmarks.harness import MODEL, QUERY, percentile, report, service
from benchmarks.mixed import passages
from benchmarks.open_loop import Load, Loaded, run
from testing.processes import replicas
from testing.running import RunningService

SECONDS = 25.0
A_REQUEST = 32
DEADLINE_S = 60.0
FACTORS = (0.5, 1.0, 2.0, 10.0)
SHORT = {"model": MODEL, "input": QUERY, "encoding_format": "base64"}
SHORT_FACTORS = (0.5, 1.0, 2.0)


def bodies() -> list[dict[str, object]]:
    """Returns requests of 32 passages each."""
    texts = passages()
    starts = range(0, len(texts) - A_REQUEST, A_REQUEST)
    return [
        {
            "model": MODEL,
            "input": texts[i : i + A_REQUEST],
            "truncate": True,
            "encoding_format": "base64",
        }
        for i in starts
    ]


def memory_mib(running: RunningService) -> float:
    """Returns the resident memory of the service's replicas."""
    pids = ",".join(map(str, replicas(running)))
    line = ["ps", "-o", "rss=", "-p", pids]
    return sum(map(int, subprocess.check_output(line, text=True).split())) / 1024


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload")
    parser.add_argument("--short", action="store_true", help="requests of one query")
    is_short = parser.parse_args().short
    requests, callers = ([SHORT], 64) if is_short else (bodies(), 16)
    factors = SHORT_FACTORS if is_short else FACTORS
    rows, goodputs = [], []
    with service() as running:
        url = f"{running.url}/v1/embeddings"
        idle = wrk(url, SHORT, 1, 4).p50_s
        capacity = wrk(url, requests[0], callers, 15).rate
        for factor in factors:
            loaded = run(Load(url, requests, factor * capacity, SECONDS))
            goodputs.append(_goodput(loaded))
            rows.append((*_row(factor, loaded), f"{memory_mib(running):.0f}"))
            if factor == factors[-1]:
                back = recovery_s(running, idle)
                told, actual = last_refusal(loaded)
    report(
        "overload_short" if is_short else "overload",
        (
            "LOAD",
            "ARRIVED",
            "200",
            "429",
            "OTHER",
            "GOODPUT REQ/S",
            "P99 S",
            "RETRY-AFTER S",
            "MIB",
        ),
        rows,
        capacity_req_s=round(capacity, 1),
        goodput_at_the_end_to_its_peak=round(goodputs[-1] / max(goodputs), 2),
        idle_p50_ms=round(idle * 1e3, 1),
        idle_again_after_s=round(back, 1),
        last_retry_after_s=round(told, 1),
        backlog_was_worked_off_after_s=round(actual, 1),
    )


def _goodput(loaded: Loaded) -> float:
    ends = [o.due_s + o.latency_s for o in loaded.outcomes if o.status == 200]
    return len(ends) / max(ends, default=1.0)


def _row(factor: float, loaded: Loaded) -> tuple[object, ...]:
    accepted, refused = loaded.count(200), loaded.count(429)
    waits = [o.retry_after_s for o in loaded.outcomes if o.retry_after_s is not None]
    return (
        f"{factor:g}x",
        len(loaded.outcomes),
        accepted,
        refused,
        len(loaded.outcomes) - accepted - refused,
        f"{_goodput(loaded):.1f}",
        f"{percentile(loaded.latencies(), 99):.1f}",
        f"{statistics.median(waits):.1f}" if waits else "-",
    )


def last_refusal(loaded: Loaded) -> tuple[float, float]:
    """Returns the last Retry-After, and the seconds from then until the backlog was worked off."""
    last = max((o for o in loaded.outcomes if o.retry_after_s), key=lambda o: o.due_s + o.latency_s)
    ends = [o.due_s + o.latency_s for o in loaded.outcomes if o.status == 200]
    assert last.retry_after_s is not None
    return last.retry_after_s, max(ends) - last.due_s - last.latency_s


def recovery_s(running: RunningService, idle_s: float) -> float:
    """Returns the seconds until a query is answered in twice the idle time again."""
    started = time.perf_counter()
    with running.client() as http:
        while time.perf_counter() - started < DEADLINE_S:
            asked = time.perf_counter()
            http.post("/v1/embeddings", json={"model": MODEL, "input": QUERY})
            if time.perf_counter() - asked < 2 * idle_s + 0.005:
                break
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
