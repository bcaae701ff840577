"""Plots of replicas over time, as small PNG files beside the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PLOTS = Path(__file__).parent / "plots"
COLOURS = {"needed": "#9aa0a6", "ours": "#1a73e8", "other": "#e8710a", "third": "#188038"}


def panels(rows: int, columns: int, width: float = 9.0, height: float = 5.0) -> tuple[Any, Any]:
    """Returns a figure and its axes, as an array of so many rows and columns."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), sharex="col", squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e8eaed", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
    return figure, axes


def steps(
    axis: Any, times: Sequence[float], values: Sequence[float], what: str, **style: Any
) -> None:
    """Draws values that hold until the next time."""
    colour = COLOURS[style.pop("colour")]
    axis.step(times, values, where="post", label=what, color=colour, linewidth=1.4, **style)


def save(figure: Any, name: str) -> Path:
    """Writes a figure; returns its path."""
    PLOTS.mkdir(exist_ok=True)
    file = PLOTS / f"{name}.png"
    figure.savefig(file, dpi=100, pil_kwargs={"optimize": True})
    plt.close(figure)
    print(f"plot: {file} ({file.stat().st_size / 1000:.0f} kB)")
    return file
