"""The documented sizing table is what its formulas give, from the models' own numbers."""

from __future__ import annotations

import re

import pytest
import torch

from deployments.core.engine.device import pass_sizes
from deployments.core.models.catalog import CATALOG
from tests.support.documents import PAGES, ROOT

SIZING = PAGES["configuration.md"]
COMPUTED = re.findall(
    r"^\| (\S+) \| (\w+) \((\d+) GB\) \| ([\d,]+) \| ([\d.]+) GB \| ([\d.]+) GB \| ([\d,]+) \| computed",
    SIZING,
    re.MULTILINE,
)
# of each backbone: intermediate size, and rows of the token table (the models' config.json)
SHAPES = {"bert": (1536, 30_522), "xlm-roberta": (4096, 250_002), "mistral": (14_336, 32_000)}
PARAMETERS = {  # the models' pages on the hub
    "all-MiniLM-L6-v2": 22_713_216,
    "multilingual-e5-large-instruct": 559_890_432,
    "e5-mistral-7b-instruct": 7_110_660_096,
}
EFFICIENCY = 0.4


def number(text):
    return float(text.replace(",", ""))


def peak(card):
    """The card's dense bfloat16 rate that the page names, in FLOP/s."""
    return 1e12 * float(re.search(rf"{card} (\d+)[, ]", SIZING.partition("peak dense")[2])[1])


def test_every_row_is_seen():
    rows = re.findall(r"\| computed \|$", SIZING, re.MULTILINE)
    assert len(COMPUTED) == len(rows) > 0


@pytest.mark.parametrize("row", COMPUTED, ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_row_is_what_the_formulas_give(row):
    name, card, memory, budget, weights, activations, rate = row
    spec = CATALOG[name]
    intermediate, vocabulary = SHAPES[spec.backbone]
    tokens = number(budget)
    assert tokens in pass_sizes(torch.device("cuda")).budgets
    per_token = 12 * spec.dimension + 6 * intermediate
    computing = PARAMETERS[name] - vocabulary * spec.dimension
    assert number(weights) == pytest.approx(2 * PARAMETERS[name] / 1e9, abs=0.05)
    assert number(activations) == pytest.approx(tokens * per_token / 1e9, abs=0.05)
    assert number(rate) == pytest.approx(EFFICIENCY * peak(card) / (2 * computing), rel=0.01)
    assert number(weights) + number(activations) + 1 < number(memory)


def test_the_measured_row_is_in_the_log():
    log = (ROOT / "benchmarks" / "log" / "2026-11.md").read_text()
    actual = re.search(r"1 thread [\d,]+ \(short, random sizes\), ([\d,]+) \(passages\)", log)
    (rate,) = re.findall(r"\| ([\d,]+) \| measured \|$", SIZING, re.MULTILINE)
    assert rate == actual[1]
