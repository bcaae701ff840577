"""Does it stay whole? Steady load at 70% of capacity, and a replica killed at random now and then.

    python -m benchmarks.soak --minutes 20

Two encoder and two router replicas on this machine. Capacity is what a closed loop of 32 gets through
while a replica is killed and comes back, which takes the cores of the one that is left. Every 20 to
40 seconds one of the encoder replicas is killed (SIGKILL). No request may be lost, counting one retry
of broken connections and 5xx, and no process may be larger at the end than 1.1 times its kind was in
minute 5.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor

from benchmarks.closed_loop import wrk
from benchmarks.harness import MODEL, QUERY, percentile, report
from benchmarks.open_loop import Load, Loaded, start
from testing.processes import descendants, kill, memory_mib, replicas
from testing.running import RunningService, running_service

BODY = {"model": MODEL, "input": QUERY, "encoding_format": "base64"}
LOAD = 0.7
FIRST_LOOK = 0.25  # of the whole time: minute 5 of 20
EVERY_S = (20.0, 40.0)
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    options = parser.parse_args()
    seconds = options.minutes * 60
    models = [{"name": MODEL, "replicas": 2}]
    with running_service(models, [MODEL], routers=2) as running:
        time.sleep(5)
        url = f"{running.url}/v1/embeddings"
        dice = random.Random(options.seed)
        capacity = capacity_beside_a_kill(running, url, dice)
        rate = LOAD * capacity
        load = start(Load(url, [BODY], rate, seconds, retries=1))
        kills, early = disturb(running, load, seconds, dice)
        late = memory(running)
        loaded = load.result()
    rows = [(kind, f"{early[kind]:.0f}", f"{late[kind]:.0f}") for kind in early]
    growth = {kind: round(late[kind] / early[kind], 2) for kind in early if early[kind]}
    report(
        "soak",
        ("PROCESS", "MIB EARLY", "MIB AT THE END"),
        rows,
        growth=growth,
        capacity_req_s=round(capacity),
        **told(loaded),
    )
    print(f"seed {options.seed}: {kills} replicas killed in {options.minutes:g} minutes")


def capacity_beside_a_kill(running: RunningService, url: str, dice: random.Random) -> float:
    """Returns requests a second of a closed loop that lasts from a kill until all is well again."""
    with ThreadPoolExecutor(1) as pool:
        loop = pool.submit(wrk, url, BODY, 32, EVERY_S[1])
        time.sleep(1)
        kill_one(running, dice)
        return loop.result().rate


def disturb(
    running: RunningService, load: Future[Loaded], seconds: float, dice: random.Random
) -> tuple[int, dict[str, float]]:
    """Kills until shortly before the load ends; returns how often, and the memory early on."""
    began, kills, early = time.monotonic(), 0, dict[str, float]()
    while not load.done() and time.monotonic() - began < seconds - 2 * EVERY_S[0]:
        time.sleep(dice.uniform(*EVERY_S))
        kills += kill_one(running, dice)
        if not early and time.monotonic() - began > FIRST_LOOK * seconds:
            time.sleep(EVERY_S[0] / 2)  # until the new replica has its weights
            early = memory(running)
    time.sleep(max(0.0, seconds - 2 - (time.monotonic() - began)))
    return kills, early


def kill_one(running: RunningService, dice: random.Random) -> int:
    """SIGKILL to one of two encoder replicas; none while only one is there."""
    found = replicas(running, f"encoder-{MODEL}")
    if len(found) < 2:
        return 0
    kill([dice.choice(found)])
    return 1


def memory(running: RunningService) -> dict[str, float]:
    """Returns the largest process of each kind, in MiB (proportional set size)."""
    found: dict[str, float] = defaultdict(float)
    for pid, line in descendants(running.process.pid).items():
        kind = next((kind for mark, kind in KINDS.items() if mark in line), None)
        if kind:
            found[kind] = max(found[kind], memory_mib(pid))
    return dict(found)


def told(loaded: Loaded) -> dict[str, object]:
    """Returns what became of the requests."""
    return {
        "requests": len(loaded.outcomes),
        "sent_again": sum(o.tries > 1 for o in loaded.outcomes),
        "refused_429": loaded.count(429),
        "lost": sum(o.status not in (200, 429) for o in loaded.outcomes),
        "p50_ms": round(percentile(loaded.latencies(), 50) * 1e3, 1),
        "p99_ms": round(percentile(loaded.latencies(), 99) * 1e3, 1),
    }


if __name__ == "__main__":
    main()
