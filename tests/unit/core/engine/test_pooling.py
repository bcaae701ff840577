"""Pooling against a loop that anyone can read, in any precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deployments.core.engine.pooling import POOLERS
from deployments.core.models.spec import Pooling

LENGTHS = (1, 5, 3, 7, 7)
DIMENSION = 6


def texts(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, DIMENSION, generator=generator).to(dtype) for n in LENGTHS]


def naive(pooling, row):
    row = row.to(torch.float32).numpy()
    if pooling is Pooling.MEAN:
        return sum(row[1:], start=row[0].astype(np.float64)) / len(row)
    return row[-1] if pooling is Pooling.LAST_TOKEN else row[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pooling", Pooling)
def test_like_the_loop(pooling, dtype):
    rows = texts(dtype)
    actual = POOLERS[pooling](torch.cat(rows), torch.tensor(LENGTHS))
    assert actual.dtype == torch.float32
    expected = np.stack([naive(pooling, row) for row in rows])
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pooling", Pooling)
def test_neighbours_change_nothing(pooling):
    rows = texts()
    together = POOLERS[pooling](torch.cat(rows), torch.tensor(LENGTHS))
    for number, row in enumerate(rows):
        alone = POOLERS[pooling](row, torch.tensor([len(row)]))
        torch.testing.assert_close(together[number], alone[0])


def test_a_long_text_in_half_precision_is_averaged_in_float32():
    hidden = torch.full((4096, 2), 1.0009765625, dtype=torch.float16)  # the float16 after 1
    actual = POOLERS[Pooling.MEAN](hidden, torch.tensor([4096]))
    assert actual.tolist() == [[1.0009765625] * 2]
