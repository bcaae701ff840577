"""What the benchmarks share: the machine's description, tables, percentiles, a service to load."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from cluster.tables import table
from tests.running import RunningService, running_service

RESULTS = Path(__file__).parent / "results"
MODEL = "all-MiniLM-L6-v2"
QUERY = "how do plants turn sunlight into sugar and oxygen"


def machine() -> str:
    """Returns one line on what this runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{names[0] if names else platform.processor()}, {cores} cores, {_accelerator()}"


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def percentile(values: Sequence[float], percent: int) -> float:
    """Returns the value that ``percent`` of the values do not exceed; NaN of none."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def report(
    name: str, header: Sequence[str], rows: Sequence[Sequence[object]], **extra: Any
) -> None:
    """Prints one table with the machine under it, and keeps it as JSON."""
    print(f"\n{name}, {date.today()}\n{table(header, rows)}")
    for key, value in extra.items():
        print(f"{key.replace('_', ' ')}: {value}")
    print(f"machine: {machine()}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    content = {
        "date": str(date.today()),
        "machine": machine(),
        "rows": [dict(zip(header, row, strict=True)) for row in rows],
        **extra,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, default=str) + "\n")


@contextmanager
def service(
    path: str = "auto", environment: Mapping[str, str] | None = None, **args: Any
) -> Iterator[RunningService]:
    """Runs the default app, with the bundled model, as `embedfleet serve` starts it."""
    models = [{"name": MODEL, "num_cpus": 1, "threads": None}]
    with running_service(models, [MODEL], path, environment, **args) as running:
        time.sleep(2)  # what start-up leaves behind
        yield running


def tokens_per_s(running: RunningService) -> float:
    """Returns the speed that the replica has measured of itself."""
    with running.client() as http:
        return float(http.get("/v1/models").json()["data"][0]["tokens_per_s"])
