"""Pooling reads the real tokens only, on whichever side the padding stands."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.engine.pooling import POOLERS
from deployments.core.models.spec import Pooling
from tests.fidelity.cards import average_pool, last_token_pool

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)
WRITTEN_OUT = {
    Pooling.MEAN: lambda tokens: tokens.mean(dim=0),
    Pooling.LAST_TOKEN: lambda tokens: tokens[-1],
    Pooling.CLS: lambda tokens: tokens[0],
}
ON_THE_CARDS = {Pooling.MEAN: average_pool, Pooling.LAST_TOKEN: last_token_pool}


def padded(lengths: list[int], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random token vectors, in the padding too, and the mask of the real ones."""
    positions = torch.arange(max(lengths))
    mask = positions < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if side == "left" else mask
    generator = torch.Generator().manual_seed(sum(lengths))
    return torch.randn(*mask.shape, 8, generator=generator), mask


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", Pooling)
@given(lengths=LENGTHS)
def test_the_real_tokens_written_out(pooling, side, lengths):
    hidden, mask = padded(lengths, side)
    expected = [WRITTEN_OUT[pooling](row[real]) for row, real in zip(hidden, mask, strict=True)]
    torch.testing.assert_close(POOLERS[pooling](hidden, mask), torch.stack(expected))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ON_THE_CARDS)
@given(lengths=LENGTHS)
def test_the_cards_functions(pooling, side, lengths):
    hidden, mask = padded(lengths, side)
    expected = ON_THE_CARDS[pooling](hidden, mask.long())
    torch.testing.assert_close(POOLERS[pooling](hidden, mask), expected)


@pytest.mark.parametrize("pooling", Pooling)
def test_half_precision_is_pooled_in_float32(pooling):
    hidden = torch.ones(1, 1_000, 8)
    hidden[0, ::2] = 3.0
    hidden[0, 0] = 1.0078125  # the bfloat16 after 1
    found = POOLERS[pooling](hidden.bfloat16(), torch.ones(1, 1_000, dtype=torch.bool))
    assert found.dtype == torch.float32
    expected = WRITTEN_OUT[pooling](hidden.bfloat16()[0].double())
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=0)
