"""The drawings of a plan."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np

from cluster.plan.picture import Panel, sparkline, svg


def test_a_line_shows_the_highest_of_each_slice():
    values = np.array([0, 1, 0, 0, 4, 0, 8, 8], float)
    assert sparkline(values, 8, 4) == "▁ ▄█"
    assert sparkline(values, 8, 100) == " ▁  ▄ ██"
    assert sparkline(np.zeros(3), 0, 2) == "  "


def test_little_is_not_drawn_as_nothing():
    assert sparkline(np.array([0, 1.0]), 1_000, 2) == " ▁"


def test_a_drawing_has_a_panel_for_each_policy():
    hour = np.ones(3_600)
    waits = np.where(np.arange(3_600) < 36, 5.0, 0.0)
    drawn = ElementTree.fromstring(
        svg(hour, [Panel("<a> & b", hour, waits), Panel("c", hour, 0 * hour)])
    )
    texts = [text.text for text in drawn.findall("{*}text")]
    assert {"<a> & b", "c"} <= set(texts)
    first, second = drawn.findall("{*}path")
    assert first.get("d")
    assert not second.get("d")
