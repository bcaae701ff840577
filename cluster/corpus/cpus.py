"""The CPUs that workers reserve in Ray. They only count for scheduling: workers run at low priority."""

from __future__ import annotations

import ray

from cluster.corpus.settings import WORKER_CPUS


def worker_cpus(workers: int, besides: float = 0.0) -> float:
    """Returns the CPUs to reserve for each worker: 0 if all of them would not leave ``besides`` free."""
    return WORKER_CPUS if free_cpus() >= workers * WORKER_CPUS + besides else 0.0


def free_cpus() -> float:
    """Returns the CPUs of the cluster that nobody has reserved."""
    return float(ray.available_resources().get("CPU", 0.0))
