"""What the benchmarks measure with: operations, texts, ratios and the load generator's report."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from benchmarks.common.load import parse_wrk
from benchmarks.common.reporting import median_ratio, spread
from benchmarks.common.shapes import BUNDLED, SHAPES
from benchmarks.common.texts import KINDS, case
from deployments.core.engine.matrix_rate import Work
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model


@pytest.mark.parametrize("name", SHAPES)
def test_operations_are_those_of_the_models_own_layers(name):
    config = SHAPES[name].config()
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    linears = [
        m for n, m in model.named_modules() if isinstance(m, nn.Linear) and "pooler" not in n
    ]
    assert Work.of(config).operations(attended=0) == 2 * sum(m.weight.numel() for m in linears)


def test_attention_costs_scores_and_sums_half_of_it_where_causal():
    bert, mistral = (Work.of(SHAPES[name].config()) for name in (BUNDLED, "mistral-7b"))
    assert bert.operations(100) - bert.operations(0) == 6 * 4 * 100 * 384
    assert mistral.operations(100) - mistral.operations(0) == 32 * 2 * 100 * 4_096


TOKENS = 100_000
BOUNDS = {"short queries": (8, 16), "passages": (55, 120), "mixed long": (16, 256)}


@pytest.fixture(scope="module")
def cases():
    files = find_model(BUNDLED, weights=False)
    tokenizer = describe(files.spec, files.folder).fast_tokenizer()
    return {kind: case(kind, tokenizer, TOKENS) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_of_their_kind(cases, kind):
    texts, batch = cases[kind].texts, cases[kind].batch
    least, most = BOUNDS[kind]
    assert TOKENS <= batch.tokens < TOKENS + most
    assert batch.lengths.min() >= least
    assert batch.lengths.max() <= most
    assert len(texts) == len(batch)


def test_the_ids_are_those_of_the_texts(cases):
    files = find_model(BUNDLED, weights=False)
    tokenizer = describe(files.spec, files.folder).fast_tokenizer()
    for texts, batch in ((c.texts[-20:], c.batch) for c in cases.values()):
        last = batch.slice(len(batch) - 20, len(batch))
        assert last.ids.tolist() == tokenizer.tokenize(texts, truncate=True).batch.ids.tolist()


def test_as_many_long_texts_as_short_ones(cases):
    counts, _ = np.histogram(cases["mixed long"].batch.lengths, bins=8, range=(16, 257))
    assert counts.min() > 0.7 * counts.max()


def test_ratios_are_of_the_same_round():
    assert median_ratio([10, 2, 30], [5, 1, 10]) == 2
    assert spread([1000.4, 3.0, 50.0]) == "50 (3–1,000)"
    assert spread([0.123], digits=2) == "0.12"


WRK = """\
Running 15s test @ http://127.0.0.1:8000/v1/embeddings
  1 threads and 16 connections
  Latency Distribution
     50%  110.20ms
     99%    1.25s
  1500 requests in 15.00s, 2.10MB read
{refusals}Requests/sec:    100.00
Transfer/sec:    143.36KB
"""


@pytest.mark.parametrize(
    ("refusals", "rate", "errors"),
    [("", 100.0, 0), ("  Non-2xx or 3xx responses: 1480\n", 4 / 3, 1_480)],
)
def test_a_refusal_is_not_counted_as_an_answer(refusals, rate, errors):
    report = parse_wrk(WRK.format(refusals=refusals))
    assert (report.rate, report.errors) == (pytest.approx(rate), errors)
    assert (report.p50_s, report.p99_s) == pytest.approx((0.1102, 1.25))
