"""What a death costs: of an encoder replica, a router replica, Serve's controller, a whole node.

    python -m benchmarks.failures --rounds 10 --victims encoder router controller node

Four Ray nodes on this machine, two encoder and two router replicas. Requests arrive at random at a
third of the rate that the service gets through. In each round one victim gets SIGKILL (a node with
all its processes) eight seconds into the load. A failed request is sent again once, as OpenAI's
clients do.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ray.cluster_utils import Cluster

from benchmarks.common.load import Load, OpenLoop, Outcome, closed_loop, start_open_loop
from benchmarks.common.reporting import parser, percentile, report
from benchmarks.common.service import MODEL, ONE_QUERY
from testing.nodes import cluster_of, placed
from testing.processes import kill, marked
from testing.running import RunningService, running_service
from testing.waiting import until

VICTIMS = {
    "encoder": f":encoder-{MODEL}",
    "router": ":router",
    "controller": "ServeController",
}
SECONDS = 30.0
KILL_AT_S = 8.0
WINDOW_S = 1.0


@dataclass(frozen=True)
class Round:
    """One death: how many requests were sent, failed at first, broke off, and failed for good.

    ``recovery_s`` is the time until p99 was back to normal.
    """

    requests: int
    failed: int
    broken: int
    lost: int
    recovery_s: float


def main() -> None:
    """Prints the table."""
    options = parser("failures", __doc__)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--victims", nargs="+", default=[*VICTIMS, "node"])
    args = options.parse_args()
    rows = []
    with replicated_service() as (cluster, running):
        url = f"{running.url}/v1/embeddings"
        rate = closed_loop(url, ONE_QUERY, 32).rate / 3
        for victim in args.victims:
            rounds = [kill_one(cluster, running, victim, rate) for _ in range(args.rounds)]
            rows.append(row(victim, rounds))
    header = ("VICTIM", "ROUNDS", "REQUESTS", "FAILED", "BROKEN", "LOST", "P99 BACK S", "WORST S")
    report("failures", header, rows, rate_req_s=round(rate))


@contextmanager
def replicated_service() -> Iterator[tuple[Cluster, RunningService]]:
    """Runs two encoder and two router replicas, on worker nodes that can be removed."""
    models = [{"name": MODEL, "device": "cpu", "num_gpus": 1, "replicas": 2}]
    workers = [{"num_gpus": 1}] * 3
    with cluster_of(*workers, path="auto") as cluster:
        address = {"RAY_ADDRESS": cluster.address}
        with running_service(models, [MODEL], environment=address, routers=2) as running:
            time.sleep(5)
            yield cluster, running


def kill_one(cluster: Cluster, running: RunningService, victim: str, rate: float) -> Round:
    """Kills one victim under load, and waits until everything is there again."""
    load = Load(f"{running.url}/v1/embeddings", [ONE_QUERY], rate, SECONDS, retries=1)
    future = start_open_loop(load)
    time.sleep(KILL_AT_S)
    killed = time.time()
    if victim == "node":
        remove_node(cluster)
    else:  # among the descendants of this process, as the nodes are
        kill([marked(os.getpid(), VICTIMS[victim])[0]])
    loop = future.result()
    if victim == "node":
        cluster.add_node(num_cpus=2, num_gpus=1)
    wait_until_whole(cluster, running)
    return judge(loop, killed)


def remove_node(cluster: Cluster) -> None:
    """Removes a worker node that holds an encoder replica, without warning."""
    occupied = {node for _, node in placed(cluster)}
    victim = next(node for node in cluster.worker_nodes if node.node_id in occupied)
    cluster.remove_node(victim, allow_graceful=False)


def wait_until_whole(cluster: Cluster, running: RunningService) -> None:
    """Returns once two encoder replicas run and answer again."""
    time.sleep(1.0)
    until(lambda: len(placed(cluster)) == 2 and running.states().get(MODEL) == "ready", 120)
    time.sleep(5.0)


def judge(loop: OpenLoop, killed: float) -> Round:
    """Counts what became of the requests of a load during which a victim was ``killed``."""
    failed = [o for o in loop.outcomes if o.tries > 1 or o.status != 200]
    return Round(
        requests=len(loop.outcomes),
        failed=len(failed),
        broken=sum(o.first_status == 0 for o in failed),
        lost=sum(o.status != 200 for o in loop.outcomes),
        recovery_s=recovery_s(loop.outcomes, killed - loop.began),
    )


def recovery_s(outcomes: Sequence[Outcome], killed_s: float) -> float:
    """Seconds from a kill to the end of the last window whose p99 was above twice that before."""
    before = [o.latency_s for o in outcomes if WINDOW_S < o.due_s < killed_s - WINDOW_S]
    limit = max(2 * percentile(before, 99), 0.05)
    recovered = 0.0
    for window in range(int((SECONDS - killed_s) / WINDOW_S)):
        begins = killed_s + window * WINDOW_S
        latencies = [o.latency_s for o in outcomes if begins <= o.due_s < begins + WINDOW_S]
        if latencies and percentile(latencies, 99) > limit:
            recovered = (window + 1) * WINDOW_S
    return recovered


def row(victim: str, rounds: Sequence[Round]) -> tuple[object, ...]:
    """Returns one line of the table."""
    recoveries = [r.recovery_s for r in rounds]
    return (
        victim,
        len(rounds),
        sum(r.requests for r in rounds),
        sum(r.failed for r in rounds),
        sum(r.broken for r in rounds),
        sum(r.lost for r in rounds),
        f"{statistics.median(recoveries):.0f}",
        f"{max(recoveries):.0f}",
    )


if __name__ == "__main__":
    main()
