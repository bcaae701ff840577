"""PNG charts beside the log: bars that compare engines or servers, and lines over time.

Everything here needs matplotlib. Without it no chart is drawn, a line says so, and the tables are
all there.
"""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLOTS = Path(__file__).parents[1] / "plots"
OURS, OTHER, SHADE, ALERT = "#1b6ca8", "#e8710a", "#dadce0", "#c0392b"
_PEER, _INK, _NOTE = "#b8c2cc", "#333333", "#666666"


def _pyplot() -> Any:
    """Returns matplotlib's pyplot, which draws to files; None, and says so, if it is missing."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no chart: pip install matplotlib")
        return None
    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(plt: Any, figure: Any, name: str) -> Path:
    PLOTS.mkdir(exist_ok=True)
    file = PLOTS / f"{name}.png"
    figure.savefig(file, dpi=150, pil_kwargs={"optimize": True})
    plt.close(figure)
    print(f"chart: {file}")
    return file


@dataclass(frozen=True)
class Bars:
    """One panel of bars by name: each shows the median of its values, and a line from least to most.

    ``limit`` is drawn as a dashed line: what no bar can exceed.
    """

    title: str
    bars: Mapping[str, Sequence[float]]
    limit: float | None = None
    digits: int = 0


def draw_bars(
    name: str, title: str, panels: Sequence[Bars], columns: int, note: str
) -> Path | None:
    """Writes ``plots/NAME.png``; returns None without matplotlib."""
    if (plt := _pyplot()) is None:
        return None
    names = list(dict.fromkeys(name for panel in panels for name in panel.bars))
    rows = -(-len(panels) // columns)
    size = (2.2 + 3.3 * columns, 0.9 + rows * (0.75 + 0.3 * len(names)))
    figure, grid = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    lines = "\n".join(textwrap.wrap(note, int(size[0] * 17)))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, color=_NOTE)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, panel, names)
    return _save(plt, figure, name)


def _draw_panel(axes: Any, panel: Bars, names: Sequence[str]) -> None:
    reach = max([panel.limit or 0.0, *map(max, panel.bars.values())]) or 1.0
    for place, name in enumerate(names):
        if name in panel.bars:
            _draw_bar(axes, place, name, panel, reach)
        else:
            axes.text(0, place, " no figure", va="center", fontsize=7.5, color=_NOTE)
    if panel.limit is not None:
        axes.axvline(panel.limit, color=ALERT, linestyle="--", linewidth=1.2)
        label = f" {panel.limit:,.{panel.digits}f}"
        axes.text(panel.limit, -0.45, label, va="center", fontsize=8, color=ALERT)
    axes.set_xlim(0, reach * 1.3)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.set_title(panel.title, loc="left", fontsize=9, color=_INK)
    axes.tick_params(length=0, colors=_INK)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_bar(axes: Any, place: int, name: str, panel: Bars, reach: float) -> None:
    values = panel.bars[name]
    median = statistics.median(values)
    axes.barh(place, median, height=0.66, color=OURS if name.startswith("embedfleet") else _PEER)
    axes.plot([min(values), max(values)], [place, place], color=_INK, linewidth=1)
    number, x = f"{median:,.{panel.digits}f}", max(values) + reach * 0.02
    label = axes.text(x, place, number, va="center", fontsize=8, color=_INK)
    label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})


def draw_lines(
    name: str, rows: int, columns: int, height: float, draw: Callable[[Any], None]
) -> Path | None:
    """Writes ``plots/NAME.png``; ``draw`` gets the axes, an array (rows, columns).

    Returns None without matplotlib.
    """
    if (plt := _pyplot()) is None:
        return None
    figure, axes = plt.subplots(
        rows, columns, figsize=(9.0, height), sharex="col", squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e8eaed", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
    draw(axes)
    return _save(plt, figure, name)


def steps(axis: Any, times: Any, values: Any, label: str, colour: str) -> None:
    """Draws values that hold until the next time."""
    axis.step(times, values, where="post", label=label, color=colour, linewidth=1.4)
