"""Packed layers compute what plain ones do."""

import pytest
import torch
from torch import nn

from deployments.embedding.cpu_linear import PackedLinear, can_pack, pack_linears

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
def test_every_linear_is_replaced_and_nothing_else():
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"a": nn.Linear(4, 4)}), nn.LayerNorm(4))
    pack_linears(model.to(torch.bfloat16))
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(PackedLinear) == 2
    assert nn.Linear not in kinds
    assert nn.LayerNorm in kinds


def test_float32_stays_plain():
    assert not can_pack(CPU, torch.float32)
