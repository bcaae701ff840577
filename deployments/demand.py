"""What a replica of a model asks of a node, and whether any node of the cluster has it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ray._raylet import node_labels_match_selector  # type: ignore[attr-defined]

from deployments.config import ModelConfig


def replica_resources(config: ModelConfig) -> dict[str, float]:
    """Returns Ray's resources of one replica, by Ray's names."""
    wanted = {"CPU": config.num_cpus, "GPU": config.num_gpus, **config.resources}
    if config.accelerator_type:
        wanted[f"accelerator_type:{config.accelerator_type}"] = 0.001
    return {name: amount for name, amount in wanted.items() if amount > 0}


def _matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return not selector or bool(node_labels_match_selector(dict(labels), dict(selector)))


def missing_resources(config: ModelConfig, nodes: Iterable[Mapping[str, Any]]) -> str | None:
    """Returns why no node could ever hold a replica, or None if one could.

    ``nodes`` is what `ray.nodes()` gives. Nodes that an autoscaler may yet add are not known here.
    """
    wanted = replica_resources(config)
    labels = config.label_selector
    alive = [n["Resources"] for n in nodes if n["Alive"] and _matches(n.get("Labels", {}), labels)]
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in alive):
        return None
    where = [f"the labels {labels}"] if labels else []
    asked = ", ".join([*(f"{amount:g} {name}" for name, amount in wanted.items()), *where])
    if not alive and labels:
        return f"a replica needs {asked}; no node of the cluster has these labels"
    most = {name: max((node.get(name, 0) for node in alive), default=0) for name in wanted}
    lacking = [
        f"more than {most[name]:g} {name}" if most[name] else name
        for name, amount in wanted.items()
        if most[name] < amount
    ]
    what = " and ".join(lacking) or "all of that at once"
    return f"a replica needs {asked}; no node of the cluster has {what}"
