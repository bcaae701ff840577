"""How a benchmark takes its arguments and reports: command line, medians, ratios, tables, JSON.

Without Ray and HTTP, so that the engine's benchmark runs on a bare machine too.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.common.machine import machine
from cluster.service.tables import table

RESULTS = Path(__file__).parents[1] / "results"


def parser(name: str, docstring: str | None) -> argparse.ArgumentParser:
    """Returns the command line of ``python -m benchmarks.NAME``, described by its docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """Returns the value that ``percent`` of the values do not exceed; NaN if there are none."""
    if len(values) < 2:
        return values[0] if values else float("nan")
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Returns the median and, of several values, the least and the most: ``30 (27–38)``."""
    median, *ends = (
        f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return median if len(values) == 1 else f"{median} ({ends[0]}–{ends[1]})"


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the median of each round's ratio: what changes between rounds cancels out."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def report(
    name: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    raw: Any = None,
    **extra: Any,
) -> None:
    """Prints a table, further figures and the machine; writes them, and ``raw``, to ``results/``."""
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
