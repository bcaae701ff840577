"""The manifests and configs that are shipped for clusters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "manifests"
GPU_CONFIG = ROOT / "cluster" / "gpu_config.yaml"


def documents(name: str) -> list[dict[str, Any]]:
    """Returns a manifest's documents. What an alias repeats is copied, so that tests can edit it."""
    return [_unshared(document) for document in yaml.safe_load_all((FOLDER / name).read_text())]


def rayservice() -> dict[str, Any]:
    (service,) = documents("rayservice.yaml")
    return service


def pod_templates(service: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the pod specs of a RayService: the head's and each worker group's."""
    cluster = service["spec"]["rayClusterConfig"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {
        name: group["template"]["spec"]
        for name, group in {"head": cluster["headGroupSpec"], **groups}.items()
    }


def find(value: Any, key: str) -> Iterator[Any]:
    """Yields all values of a key, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for part in value.values():
            yield from find(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from find(part, key)


def pinned(package: str) -> str:
    """Returns the version of a package in `constraints.txt`."""
    line = re.search(rf"^{package}==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert line, package
    return line[1]


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(part) for key, part in value.items()}
    return [_unshared(part) for part in value] if isinstance(value, list) else value
