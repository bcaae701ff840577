"""What does a death cost? Encoder replica, router replica, Serve's controller, a whole node.

    python -m benchmarks.failures --rounds 10 --victims encoder router controller node

Open loop at a third of what the service gets through, from four nodes on this machine with two
encoder and two router replicas. In each round one victim is killed (SIGKILL; a node with all that
runs on it) five seconds into the load. Failed requests are sent again once, as OpenAI's clients do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ray.cluster_utils import Cluster

from benchmarks.closed_loop import wrk
from benchmarks.harness import MODEL, QUERY, percentile, report
from benchmarks.open_loop import Load, Loaded, Outcome, start
from testing.nodes import cluster_of, placed
from testing.processes import kill, marked
from testing.running import RunningService, running_service
from testing.waiting import until

VICTIMS = {
    "encoder": f":encoder-{MODEL}",
    "router": ":router",
    "controller": "ServeController",
}
BODY = {"model": MODEL, "input": QUERY, "encoding_format": "base64"}
SECONDS = 30.0
KILL_AT_S = 8.0
WINDOW_S = 1.0


@dataclass(frozen=True)
class Round:
    """One death: requests, those that failed, those that failed again, seconds until p99 is back."""

    requests: int
    failed: int
    broken: int
    lost: int
    back_s: float


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--victims", nargs="+", default=[*VICTIMS, "node"])
    options = parser.parse_args()
    rows = []
    with fleet() as (cluster, running):
        url = f"{running.url}/v1/embeddings"
        rate = wrk(url, BODY, 32).rate / 3
        for victim in options.victims:
            rounds = [one(cluster, running, victim, rate) for _ in range(options.rounds)]
            rows.append(row(victim, rounds))
    header = ("VICTIM", "ROUNDS", "REQUESTS", "FAILED", "BROKEN", "LOST", "P99 BACK S", "WORST S")
    report("failures", header, rows, rate_req_s=round(rate))


@contextmanager
def fleet() -> Iterator[tuple[Cluster, RunningService]]:
    """Runs two encoder and two router replicas, on workers that can be lost."""
    models = [{"name": MODEL, "device": "cpu", "num_gpus": 1, "replicas": 2}]
    workers = [{"num_gpus": 1}] * 3
    with cluster_of(*workers, path="auto") as cluster:
        address = {"RAY_ADDRESS": cluster.address}
        with running_service(models, [MODEL], environment=address, routers=2) as running:
            time.sleep(5)
            yield cluster, running


def one(cluster: Cluster, running: RunningService, victim: str, rate: float) -> Round:
    """Kills one victim under load, and waits until all is as it was."""
    load = start(Load(f"{running.url}/v1/embeddings", [BODY], rate, SECONDS, retries=1))
    time.sleep(KILL_AT_S)
    began = time.time()
    if victim == "node":
        remove_node(cluster)
    else:  # below this process, as the nodes are
        kill([marked(os.getpid(), VICTIMS[victim])[0]])
    loaded = load.result()
    if victim == "node":
        cluster.add_node(num_cpus=2, num_gpus=1)
    wait_until_whole(cluster, running)
    return judged(loaded, began)


def remove_node(cluster: Cluster) -> None:
    """Takes away a worker that holds an encoder replica, with no word to anyone."""
    held = {node for _, node in placed(cluster)}
    victim = next(node for node in cluster.worker_nodes if node.node_id in held)
    cluster.remove_node(victim, allow_graceful=False)


def wait_until_whole(cluster: Cluster, running: RunningService) -> None:
    """Returns once two encoder replicas run and answer again."""
    time.sleep(1.0)
    until(lambda: len(placed(cluster)) == 2 and running.states().get(MODEL) == "ready", 120)
    time.sleep(5.0)


def judged(loaded: Loaded, began: float) -> Round:
    """Returns what a load went through."""
    first = [o for o in loaded.outcomes if o.tries > 1 or o.status != 200]
    return Round(
        requests=len(loaded.outcomes),
        failed=len(first),
        broken=sum(o.first_status == 0 for o in first),
        lost=sum(o.status != 200 for o in loaded.outcomes),
        back_s=back_s(loaded.outcomes, began - loaded.began),
    )


def back_s(outcomes: Sequence[Outcome], killed_s: float) -> float:
    """Seconds from a kill to the end of the last window whose p99 was above twice that before."""
    before = [o.latency_s for o in outcomes if WINDOW_S < o.due_s < killed_s - WINDOW_S]
    usual = max(2 * percentile(before, 99), 0.05)
    worst = 0.0
    for window in range(int((SECONDS - killed_s) / WINDOW_S)):
        begins = killed_s + window * WINDOW_S
        late = [o.latency_s for o in outcomes if begins <= o.due_s < begins + WINDOW_S]
        if late and percentile(late, 99) > usual:
            worst = (window + 1) * WINDOW_S
    return worst


def row(victim: str, rounds: Sequence[Round]) -> tuple[object, ...]:
    """Returns one line of the table."""
    back = [r.back_s for r in rounds]
    return (
        victim,
        len(rounds),
        sum(r.requests for r in rounds),
        sum(r.failed for r in rounds),
        sum(r.broken for r in rounds),
        sum(r.lost for r in rounds),
        f"{statistics.median(back):.0f}",
        f"{max(back):.0f}",
    )


if __name__ == "__main__":
    main()
