"""Bar charts of what a benchmark found: one panel a case, one bar an engine or server."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLOTS = Path(__file__).parent / "plots"
_OURS, _PEER, _LIMIT, _INK = "#1b6ca8", "#b8c2cc", "#c0392b", "#333333"


@dataclass(frozen=True)
class Panel:
    """Bars by name; each shows the median of its values and a line from the least to the most.

    ``limit`` is drawn as a dashed line: what no bar can exceed.
    """

    title: str
    bars: Mapping[str, Sequence[float]]
    limit: float | None = None
    digits: int = 0


def draw(name: str, title: str, panels: Sequence[Panel], columns: int, note: str) -> Path | None:
    """Writes ``plots/NAME.png``; returns None, and says so, where matplotlib is not installed."""
    try:
        import matplotlib as mpl
        from matplotlib import pyplot as plt
    except ImportError:
        print("no chart: pip install matplotlib")
        return None
    mpl.use("Agg")
    names = list(dict.fromkeys(name for panel in panels for name in panel.bars))
    rows = -(-len(panels) // columns)
    size = (2.2 + 3.3 * columns, 0.9 + rows * (0.75 + 0.3 * len(names)))
    figure, grid = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK)
    lines = "\n".join(textwrap.wrap(note, int(size[0] * 17)))
    figure.supxlabel(lines, x=0.01, ha="left", fontsize=7.5, color="#666666")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _panel(axes, panel, names)
    PLOTS.mkdir(exist_ok=True)
    figure.savefig(PLOTS / f"{name}.png", dpi=150)
    plt.close(figure)
    return PLOTS / f"{name}.png"


def _panel(axes: Any, panel: Panel, names: Sequence[str]) -> None:
    reach = max([panel.limit or 0.0, *map(max, panel.bars.values())]) or 1.0
    for place, name in enumerate(names):
        if name in panel.bars:
            _bar(axes, place, name, panel, reach)
        else:
            axes.text(0, place, " no figure", va="center", fontsize=7.5, color="#999999")
    if panel.limit is not None:
        axes.axvline(panel.limit, color=_LIMIT, linestyle="--", linewidth=1.2)
        words = f" {panel.limit:,.{panel.digits}f}"
        axes.text(panel.limit, -0.45, words, va="center", fontsize=8, color=_LIMIT)
    axes.set_xlim(0, reach * 1.3)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.set_title(panel.title, loc="left", fontsize=9, color=_INK)
    axes.tick_params(length=0, colors=_INK)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _bar(axes: Any, place: int, name: str, panel: Panel, reach: float) -> None:
    values = panel.bars[name]
    middle, colour = statistics.median(values), _OURS if name.startswith("embedfleet") else _PEER
    axes.barh(place, middle, height=0.66, color=colour)
    axes.plot([min(values), max(values)], [place, place], color=_INK, linewidth=1)
    words = f"{middle:,.{panel.digits}f}"
    label = axes.text(max(values) + reach * 0.02, place, words, va="center", fontsize=8, color=_INK)
    label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8})
