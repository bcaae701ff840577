"""Pooling against a loop that anyone can read: either side of padding, any precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deployments.core.engine.pooling import FLAT_POOLERS, POOLERS
from deployments.core.models.spec import Pooling

LENGTHS = (1, 5, 3, 7, 7)
LONGEST, DIMENSION = 7, 6


def texts(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, DIMENSION, generator=generator).to(dtype) for n in LENGTHS]


def padded(rows, side):
    """Stacks texts, with garbage where there is only padding."""
    hidden = torch.full((len(rows), LONGEST, DIMENSION), 1e4, dtype=rows[0].dtype)
    mask = torch.zeros(len(rows), LONGEST, dtype=torch.bool)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(LONGEST - len(row), LONGEST)
        hidden[number, place], mask[number, place] = row, True
    return hidden, mask


def naive(pooling, row):
    row = row.to(torch.float32).numpy()
    if pooling is Pooling.MEAN:
        return sum(row[1:], start=row[0].astype(np.float64)) / len(row)
    return row[-1] if pooling is Pooling.LAST_TOKEN else row[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", Pooling)
def test_pooling_is_the_naive_loop(pooling, side, dtype):
    rows = texts(dtype)
    found = POOLERS[pooling](*padded(rows, side))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, [naive(pooling, row) for row in rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pooling", Pooling)
def test_pooling_without_padding_is_the_naive_loop(pooling, dtype):
    rows = texts(dtype)
    found = FLAT_POOLERS[pooling](torch.cat(rows), torch.tensor(LENGTHS))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, [naive(pooling, row) for row in rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", Pooling)
def test_left_and_right_padding_give_the_same(pooling):
    left, right = (POOLERS[pooling](*padded(texts(), side)) for side in ("left", "right"))
    torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", Pooling)
def test_one_text_alone_is_pooled_as_among_others(pooling):
    rows = texts()
    together = POOLERS[pooling](*padded(rows, "right"))
    for number, row in enumerate(rows):
        alone = POOLERS[pooling](row[None], torch.ones(1, len(row), dtype=torch.bool))
        torch.testing.assert_close(alone[0], together[number], rtol=0, atol=1e-6)


def test_long_means_do_not_lose_digits_in_half_precision():
    hidden = torch.full((1, 4096, 1), 0.1, dtype=torch.bfloat16)
    found = POOLERS[Pooling.MEAN](hidden, torch.ones(1, 4096, dtype=torch.bool))
    flat = FLAT_POOLERS[Pooling.MEAN](hidden[0], torch.tensor([4096]))
    for mean in (found, flat):
        assert mean.item() == pytest.approx(hidden[0, 0, 0].item(), rel=1e-5)
