"""Packed layers compute what plain ones do."""

import pytest
import torch
from torch import nn

from deployments.embedding.engine.cpu_linear import (
    PackedLinear,
    all_rounded_rows,
    can_pack,
    pack_linears,
    rounded_rows,
)

CPU = torch.device("cpu")
needs_packing = pytest.mark.skipif(
    not can_pack(CPU, torch.bfloat16), reason="this processor has no fast bfloat16"
)


@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 600])
def test_same_numbers(rows, bias):
    torch.manual_seed(0)
    plain = nn.Linear(48, 80, bias=bias, dtype=torch.bfloat16)
    states = torch.randn(2, rows, 48, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected, found = plain(states), PackedLinear(plain)(states)
    assert found.shape == (2, rows, 80)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


@needs_packing
def test_side_by_side_with_an_activation_and_a_residual():
    torch.manual_seed(0)
    first, second = (nn.Linear(48, n, dtype=torch.bfloat16) for n in (32, 16))
    states, residual = (torch.randn(9, 48, dtype=torch.bfloat16) for _ in range(2))
    both = PackedLinear(first, second)
    with torch.inference_mode():
        plain = torch.cat([first(states), second(states)], dim=-1)
        found = PackedLinear(first, second, activation="gelu")(states)
        torch.testing.assert_close(both(states), plain, rtol=0.02, atol=0.02)
        torch.testing.assert_close(found, nn.functional.gelu(plain), rtol=0.02, atol=0.02)
        torch.testing.assert_close(
            both.plus(states, residual), plain + residual, rtol=0.02, atol=0.03
        )


def test_few_numbers_of_rows_each_a_little_more_than_asked_for():
    found = [rounded_rows(rows) for rows in range(1, 3_000)]
    assert all(rows <= rounded for rows, rounded in enumerate(found, 1))
    assert all(rounded <= 1.25 * rows for rows, rounded in enumerate(found, 1) if rows > 64)
    assert found == sorted(found)
    assert len(all_rounded_rows(1_024)) < 25
    assert set(all_rounded_rows(1_024)) == set(found[:1_024])


@needs_packing
def test_every_linear_is_replaced_and_nothing_else():
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"a": nn.Linear(4, 4)}), nn.LayerNorm(4))
    pack_linears(model.to(torch.bfloat16))
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(PackedLinear) == 2
    assert nn.Linear not in kinds
    assert nn.LayerNorm in kinds


def test_float32_stays_plain():
    assert not can_pack(CPU, torch.float32)
