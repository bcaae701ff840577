"""What the files of cluster/monitoring/ ask Prometheus for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "cluster" / "monitoring"
PRICE = "2.5"


@cache
def panels() -> dict[str, list[str]]:
    """Returns the expressions of each of the board's panels, by its title."""
    board = json.loads((FOLDER / "dashboard.json").read_text())
    return {
        p["title"]: [t["expr"] for t in p["targets"]] for p in board["panels"] if "targets" in p
    }


def expressions(written: Iterable[str], window: str = "5m") -> list[str]:
    """Returns expressions as Grafana sends them: with values in place of the board's variables."""
    return [e.replace("$__rate_interval", window).replace("$price", PRICE) for e in written]


def rules() -> list[dict[str, Any]]:
    """Returns the alert rules."""
    (group,) = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules
