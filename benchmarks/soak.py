"""Steady load for a long time, with deaths: is any request lost, does any process grow?

    python -m benchmarks.soak --minutes 20

Two encoder and two router replicas on this machine, at 70% of capacity. Every 20 to 40 seconds one
of the encoder replicas gets SIGKILL. Capacity is what a closed loop of 32 connections gets through
while a replica is killed and comes back, since its start takes cores from the other one. No request
may be lost, counting one retry of broken connections and 5xx, and at the end no process may hold
more than 1.1 times the memory that its kind held after a quarter of the time.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor

from benchmarks.common.load import Load, OpenLoop, closed_loop, start_open_loop
from benchmarks.common.reporting import parser, percentile, report
from benchmarks.common.service import MODEL, ONE_QUERY
from testing.processes import descendants, kill, memory_mib, replicas
from testing.running import RunningService, running_service

LOAD = 0.7
EARLY = 0.25  # of the whole time: minute 5 of 20
KILL_EVERY_S = (20.0, 40.0)
KINDS = {
    f":encoder-{MODEL}": "encoder",
    ":router": "router",
    "ServeController": "controller",
    "ProxyActor": "proxy",
    "haproxy": "haproxy",
    "gcs_server": "gcs",
    "raylet": "raylet",
    "dashboard": "dashboard",
}


def main() -> None:
    """Prints the table."""
    options = parser("soak", __doc__)
    options.add_argument("--minutes", type=float, default=20.0)
    options.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    args = options.parse_args()
    seconds, dice = args.minutes * 60, random.Random(args.seed)
    models = [{"name": MODEL, "replicas": 2}]
    with running_service(models, [MODEL], routers=2) as running:
        time.sleep(5)
        url = f"{running.url}/v1/embeddings"
        capacity = capacity_beside_a_kill(running, url, dice)
        load = start_open_loop(Load(url, [ONE_QUERY], LOAD * capacity, seconds, retries=1))
        kills, early = keep_killing(running, load, seconds, dice)
        late = memory(running)
        loop = load.result()
    rows = [
        (kind, f"{early[kind]:.0f}", f"{late[kind]:.0f}", f"{late[kind] / early[kind]:.2f}")
        for kind in early
        if early[kind]
    ]
    report(
        "soak",
        ("PROCESS", "MIB EARLY", "MIB AT THE END", "GROWTH"),
        rows,
        capacity_req_s=round(capacity),
        **outcome_counts(loop),
    )
    print(f"seed {args.seed}: {kills} replicas killed in {args.minutes:g} minutes")


def capacity_beside_a_kill(running: RunningService, url: str, dice: random.Random) -> float:
    """Returns requests a second of a closed loop that spans a kill and the recovery from it."""
    with ThreadPoolExecutor(1) as pool:
        loop = pool.submit(closed_loop, url, ONE_QUERY, 32, KILL_EVERY_S[1])
        time.sleep(1)
        kill_one(running, dice)
        return loop.result().rate


def keep_killing(
    running: RunningService, load: Future[OpenLoop], seconds: float, dice: random.Random
) -> tuple[int, dict[str, float]]:
    """Kills until shortly before the load ends; returns how often, and the memory early on."""
    began, kills, early = time.monotonic(), 0, dict[str, float]()
    while not load.done() and time.monotonic() - began < seconds - 2 * KILL_EVERY_S[0]:
        time.sleep(dice.uniform(*KILL_EVERY_S))
        kills += kill_one(running, dice)
        if not early and time.monotonic() - began > EARLY * seconds:
            time.sleep(KILL_EVERY_S[0] / 2)  # until the new replica has loaded its weights
            early = memory(running)
    time.sleep(max(0.0, seconds - 2 - (time.monotonic() - began)))
    return kills, early


def kill_one(running: RunningService, dice: random.Random) -> int:
    """Kills one of two encoder replicas, and none if only one is there. Returns how many."""
    pids = replicas(running, f"encoder-{MODEL}")
    if len(pids) < 2:
        return 0
    kill([dice.choice(pids)])
    return 1


def memory(running: RunningService) -> dict[str, float]:
    """Returns the memory of the largest process of each kind, in MiB (proportional set size)."""
    largest: dict[str, float] = defaultdict(float)
    for pid, line in descendants(running.process.pid).items():
        kind = next((kind for mark, kind in KINDS.items() if mark in line), None)
        if kind:
            largest[kind] = max(largest[kind], memory_mib(pid))
    return dict(largest)


def outcome_counts(loop: OpenLoop) -> dict[str, object]:
    """Returns what became of the requests."""
    return {
        "requests": len(loop.outcomes),
        "sent_again": sum(o.tries > 1 for o in loop.outcomes),
        "refused_429": loop.count(429),
        "lost": sum(o.status not in (200, 429) for o in loop.outcomes),
        "p50_ms": round(percentile(loop.latencies(), 50) * 1e3, 1),
        "p99_ms": round(percentile(loop.latencies(), 99) * 1e3, 1),
    }


if __name__ == "__main__":
    main()
