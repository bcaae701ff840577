"""Pooling of texts back to back is that of the model cards, and reads each text's own tokens only."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.engine.pooling import POOLERS
from deployments.core.models.spec import Pooling
from tests.fidelity.cards import average_pool, last_token_pool

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=6)
ON_THE_CARDS = {Pooling.MEAN: average_pool, Pooling.LAST_TOKEN: last_token_pool}


@pytest.mark.parametrize("pooling", ON_THE_CARDS)
@given(lengths=LENGTHS)
def test_the_cards_functions(pooling, lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    hidden = torch.randn(*mask.shape, 8, generator=torch.Generator().manual_seed(sum(lengths)))
    expected = ON_THE_CARDS[pooling](hidden, mask.long())
    torch.testing.assert_close(POOLERS[pooling](hidden[mask], torch.tensor(lengths)), expected)
