"""Draws a simulation: a line of block characters for a terminal, and an SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from deployments.core.planning.simulation import Curve

_BLOCKS = " ▁▂▃▄▅▆▇█"
_WIDTH, _PANEL, _GAP, _LEFT, _RIGHT, _TOP = 900, 150, 44, 64, 16, 40
_NEEDED, _HAD, _LATE, _INK = "#dadce0", "#1b6ca8", "#c0392b", "#444444"
_LATE_S = 1.0


@dataclass(frozen=True)
class Panel:
    """A policy second by second: its replicas, and the waits in seconds."""

    name: str
    replicas: Curve
    waits: Curve


def sparkline(values: Curve, most: float, columns: int) -> str:
    """Returns one character for each slice of time: the highest value in it. ``most`` is a full block."""
    if most <= 0:
        return " " * min(columns, len(values))
    levels = np.ceil(_highest(values, columns) / most * (len(_BLOCKS) - 1)).astype(int)
    return "".join(_BLOCKS[min(level, len(_BLOCKS) - 1)] for level in levels)


def _highest(values: Curve, slices: int) -> Curve:
    """Returns the highest value of each of ``slices`` equal parts, or the values if there are fewer."""
    starts = np.unique(np.linspace(0, len(values), slices, endpoint=False).astype(int))
    return np.maximum.reduceat(values, starts)


def svg(needed: Curve, panels: Sequence[Panel]) -> str:
    """Returns a drawing with one panel for each policy: the needed replicas as an area, those it had as a
    line, and marks where a token waits for over a second. Hours run to the right.
    """
    most = max(needed.max(), *(panel.replicas.max() for panel in panels), 1.0)
    height = _TOP + len(panels) * (_PANEL + _GAP)
    parts = [_legend(), *(_panel(n, needed, panel, most) for n, panel in enumerate(panels))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="sans-serif" font-size="12" fill="{_INK}">'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>{"".join(parts)}</svg>\n'
    )


def _legend() -> str:
    labels = ((_NEEDED, "needed (oracle)"), (_HAD, "replicas"), (_LATE, "waits over 1 s"))
    return "".join(
        f'<rect x="{_LEFT + n * 160}" y="10" width="14" height="10" fill="{colour}"/>'
        f'<text x="{_LEFT + 20 + n * 160}" y="19">{label}</text>'
        for n, (colour, label) in enumerate(labels)
    )


def _panel(number: int, needed: Curve, panel: Panel, most: float) -> str:
    top = _TOP + number * (_PANEL + _GAP) + 16
    slices = _WIDTH - _LEFT - _RIGHT
    floor = top + _PANEL - 16

    def points(values: Curve) -> str:
        heights = floor - _highest(values, slices) / most * (_PANEL - 16)
        xs = np.linspace(_LEFT, _WIDTH - _RIGHT, len(heights))
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, heights, strict=True))

    late = np.flatnonzero(_highest(panel.waits, slices) > _LATE_S)
    scale = slices / min(slices, len(panel.waits))
    marks = "".join(f"M{_LEFT + x * scale:.1f},{top - 6}v6" for x in late)
    hours = len(needed) / 3_600
    return (
        f'<text x="{_LEFT}" y="{top - 10}" font-weight="bold">{escape(panel.name)}</text>'
        f'<polygon points="{_LEFT},{floor} {points(needed)} {_WIDTH - _RIGHT},{floor}" fill="{_NEEDED}"/>'
        f'<polyline points="{points(panel.replicas)}" fill="none" stroke="{_HAD}" stroke-width="1.4"/>'
        f'<path d="{marks}" stroke="{_LATE}"/>'
        f'<text x="{_LEFT - 8}" y="{top + 8}" text-anchor="end">{most:,.0f}</text>'
        f'<text x="{_LEFT - 8}" y="{floor}" text-anchor="end">0</text>'
        f'<text x="{_LEFT}" y="{floor + 14}">0 h</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{floor + 14}" text-anchor="end">{hours:,.1f} h</text>'
    )
