"""Several Ray nodes on one machine, with logical GPUs.

Placement and the death of nodes are real; the GPUs and the network between machines are not.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ray
from ray.cluster_utils import Cluster

from cluster.service.environment import path_environment
from testing.processes import descendants, kill
from testing.running import environment_in, free_port


@contextmanager
def cluster_of(
    *workers: Mapping[str, Any], path: str = "python", folder: Path | None = None
) -> Iterator[Cluster]:
    """Runs a head without GPU and these workers, given as `Cluster.add_node` takes them.

    ``path`` is the path into Serve, as `embedfleet serve` names it. Ray keeps its session in ``folder``,
    which is removed.
    """
    folder = folder or Path(tempfile.mkdtemp(prefix="ef-"))
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


@contextmanager
def growing_cluster(node: Mapping[str, float], *workers: Mapping[str, Any]) -> Iterator[Cluster]:
    """Runs these workers and a head whose autoscaler adds one ``node``, once its resources are needed.

    The autoscaler is Ray's own; in place of a cloud it starts a raylet on this machine.
    """
    folder, port = Path(tempfile.mkdtemp(prefix="ef-")), free_port()
    file = folder / "cluster.json"
    file.write_text(json.dumps(_growing(node, port)))
    ours = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
    with patch.dict(
        os.environ, {**environment_in(folder), **path_environment("python")[0], **ours}
    ):
        head = {
            "num_cpus": 4,
            "gcs_server_port": port,
            "autoscaling_config": str(file),
            "include_dashboard": False,
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        (monitor,) = cluster.head_node.all_processes["monitor"]
        try:
            for worker in workers:
                cluster.add_node(**{"num_cpus": 2, **worker})
            yield cluster
        finally:
            added = descendants(monitor.process.pid)
            cluster.shutdown()
            kill(added)
            shutil.rmtree(folder, ignore_errors=True)


def _growing(node: Mapping[str, float], port: int) -> dict[str, Any]:
    """Returns what `ray up` would read, for Ray's own test provider."""
    types = {
        "ray.head.default": {"resources": {"CPU": 4}, "node_config": {}, "max_workers": 0},
        "wanted": {"resources": dict(node), "node_config": {}, "min_workers": 0, "max_workers": 1},
    }
    mappings = ("auth", "docker", "file_mounts", "head_node", "worker_nodes")
    steps = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray")
    lists = [f"{step}_commands" for step in (*steps, "worker_start_ray")]
    return {
        **{name: {} for name in mappings},
        **{name: [] for name in (*lists, "cluster_synced_files")},
        "file_mounts_sync_continuously": False,
        "cluster_name": "growing",
        "provider": {
            "type": "fake_multinode",
            "disable_node_updaters": True,
            "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
        },
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "max_workers": 1,
        "idle_timeout_minutes": 10,
        "upscaling_speed": 1.0,
    }


def placed(cluster: Cluster) -> list[tuple[str, str]]:
    """Returns model and node of each living encoder replica."""
    prefix = "encoder-"
    return [(d.removeprefix(prefix), node) for d, node in _replicas(cluster) if prefix in d]


def routers(cluster: Cluster) -> set[str]:
    """Returns the nodes that have a router replica."""
    return {node for deployment, node in _replicas(cluster) if deployment == "router"}


def _replicas(cluster: Cluster) -> list[tuple[str, str]]:
    actors = cluster.global_state.actor_table(None, actor_state_name="ALIVE").values()
    named = [(actor["ActorClassName"], actor["Address"]["NodeID"]) for actor in actors]
    return [(name.rpartition(":")[2], node) for name, node in named if "ServeReplica:" in name]
