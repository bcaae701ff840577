"""Tables, JSON and medians, without Ray: what a benchmark needs on a bare machine too."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from cluster.service.tables import table

RESULTS = Path(__file__).parent / "results"


def machine() -> str:
    """Returns one line on what this runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {cores()} cores, {_accelerator()}"


def cores() -> int:
    """Returns how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def percentile(values: Sequence[float], percent: int) -> float:
    """Returns the value that ``percent`` of the values do not exceed; NaN of none."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Returns the median and, where there are several, the least and the most."""
    middle, *ends = (
        f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return middle if len(values) == 1 else f"{middle} ({ends[0]}–{ends[1]})"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median of the ratios round by round, which a machine that changes does not move."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def report(
    name: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    raw: Any = None,
    **extra: Any,
) -> None:
    """Prints one table with the machine under it, and keeps it as JSON, with ``raw`` figures."""
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
    if raw is not None:
        content["raw"] = raw
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1, default=str) + "\n")
