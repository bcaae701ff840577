"""Several Ray nodes on this one machine, with logical GPUs: placement and death of nodes are real, the
GPUs, the network between machines and its failures are not.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray.cluster_utils import Cluster

from cluster.serving import path_environment
from tests.running import environment_in


@contextmanager
def cluster_of(*workers: Mapping[str, Any], path: str = "python") -> Iterator[Cluster]:
    """Runs a head without GPU and these workers, given as `Cluster.add_node` takes them.

    ``path`` is the path into Serve, as `embedfleet serve` names it.
    """
    folder = Path(tempfile.mkdtemp(prefix="ef-"))
    with patch.dict(os.environ, {**environment_in(folder), **path_environment(path)[0]}):
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False}
        )
        try:
            for worker in workers:
                cluster.add_node(**{"num_cpus": 2, **worker})
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def placed(cluster: Cluster) -> list[tuple[str, str]]:
    """Returns model and node of each encoder replica that lives now."""
    prefix = "encoder-"
    return [(d.removeprefix(prefix), node) for d, node in _replicas(cluster) if prefix in d]


def routers(cluster: Cluster) -> set[str]:
    """Returns the nodes that have a router replica now."""
    return {node for deployment, node in _replicas(cluster) if deployment == "router"}


def _replicas(cluster: Cluster) -> list[tuple[str, str]]:
    actors = cluster.global_state.actor_table(None, actor_state_name="ALIVE").values()
    named = [(actor["ActorClassName"], actor["Address"]["NodeID"]) for actor in actors]
    return [(name.rpartition(":")[2], node) for name, node in named if "ServeReplica:" in name]
