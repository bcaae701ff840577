"""Packed layers compute what plain ones do."""

import pytest
import torch
from torch import nn

from deployments.core.engine.cpu import linear as cpu_linear
from deployments.core.engine.cpu.linear import (
    FBGEMM,
    ONE_DNN,
    PLAIN,
    FbgemmLinear,
    Packing,
    PlainLinear,
    choose_packing,
    has_fbgemm,
    pack_linears,
)
from deployments.core.errors import UnsupportedModel
from tests.support.hardware import CPU, PACKINGS, needs_fbgemm

TOLERANCE = {PLAIN: 1e-5, ONE_DNN: 0.03, FBGEMM: 2e-3}


def close(packing, actual, expected):
    worst = TOLERANCE[packing]
    torch.testing.assert_close(actual.float(), expected.float(), rtol=worst, atol=worst)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 600])
def test_same_numbers(packing, rows, bias):
    torch.manual_seed(0)
    plain = nn.Linear(48, 80, bias=bias, dtype=packing.computes_in)
    states = torch.randn(2, rows, 48, dtype=packing.computes_in)
    with torch.inference_mode():
        expected, actual = plain(states), packing.linear(plain)(states)
    assert actual.shape == (2, rows, 80)
    assert actual.dtype is packing.computes_in
    close(packing, actual, expected)


@pytest.mark.parametrize("packing", PACKINGS)
def test_side_by_side_with_an_activation_and_a_residual(packing):
    torch.manual_seed(0)
    first, second = (nn.Linear(48, n, dtype=packing.computes_in) for n in (32, 16))
    states, residual = (torch.randn(9, 48, dtype=packing.computes_in) for _ in range(2))
    both = packing.linear(first, second)
    with torch.inference_mode():
        plain = torch.cat([first(states), second(states)], dim=-1)
        actual = packing.linear(first, second, activation="gelu")(states)
        close(packing, both(states), plain)
        close(packing, actual, nn.functional.gelu(plain))
        close(packing, both.plus(states, residual), plain + residual)


@needs_fbgemm
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_in_float16_are_those_that_are_stored_rounded(stored):
    torch.manual_seed(0)
    plain = nn.Linear(48, 80).to(stored)
    states, identity = torch.randn(9, 48), torch.eye(48)
    packed = FbgemmLinear(plain)
    with torch.inference_mode():
        weight = packed(identity) - packed(torch.zeros(48, 48))
        torch.testing.assert_close(weight, plain.weight.half().float().T, rtol=0, atol=1e-7)
        expected = nn.functional.linear(states, plain.weight.half().float(), plain.bias.float())
        torch.testing.assert_close(packed(states), expected, rtol=1e-5, atol=1e-5)


def test_weights_that_float16_cannot_hold():
    plain = nn.Linear(4, 4)
    nn.init.constant_(plain.weight, 70_000.0)
    with pytest.raises(UnsupportedModel, match="set the model's `dtype` to float32"):
        FbgemmLinear(plain)


def test_few_numbers_of_rows_each_a_little_more_than_asked_for():
    actual = [ONE_DNN.rounded(rows) for rows in range(1, 3_000)]
    assert all(rows <= rounded for rows, rounded in enumerate(actual, 1))
    assert all(rounded <= 1.25 * rows for rows, rounded in enumerate(actual, 1) if rows > 64)
    assert actual == sorted(actual)
    assert len(ONE_DNN.slow_at_first(1_024)) < 25
    assert set(ONE_DNN.slow_at_first(1_024)) == set(actual[:1_024])


@pytest.mark.parametrize("packing", [PLAIN, FBGEMM])
def test_any_number_of_rows_where_none_is_slow_at_first(packing):
    assert [packing.rounded(rows) for rows in (1, 17, 1_000)] == [1, 17, 1_000]
    assert packing.slow_at_first(1_024) == []


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_linear_is_replaced_and_nothing_else(packing):
    model = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"a": nn.Linear(4, 4)}), nn.LayerNorm(4))
    model = pack_linears(model.to(packing.loads or torch.float16), packing)
    kinds = [type(module) for module in model.modules()]
    # a plain one computes what PyTorch's does: nothing is gained by another
    assert kinds.count(nn.Linear if packing is PLAIN else packing.linear) == 2
    assert nn.LayerNorm in kinds
    assert {p.dtype for p in model.parameters()} == {packing.computes_in}


def test_buffers_stay_as_wide_as_they_are():
    # Mistral's rotary frequencies are float32 whatever the weights are: bfloat16 would turn far tokens
    model = nn.Sequential(nn.Linear(4, 4))
    model.to(torch.bfloat16).register_buffer("inv_freq", torch.rand(4))
    packing = Packing(PlainLinear, torch.bfloat16, torch.bfloat16)
    assert pack_linears(model, packing).inv_freq.dtype is torch.float32


@pytest.mark.parametrize(
    ("device", "dtype", "packing"),
    [
        ("cpu", torch.float32, PLAIN),
        pytest.param("cpu", torch.float16, FBGEMM, marks=needs_fbgemm),
        ("cuda", torch.float32, None),
        ("cuda", torch.float16, None),
        ("cuda", torch.bfloat16, None),
    ],
)
def test_which_layers_suit(device, dtype, packing):
    assert choose_packing(torch.device(device), dtype) is packing


def test_without_fbgemm_float16_is_left_to_pytorch(monkeypatch):
    monkeypatch.setattr(cpu_linear, "has_fbgemm", lambda: False)
    assert choose_packing(CPU, torch.float16) is None


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_fbgemm_is_not_for_arm(monkeypatch, machine):
    monkeypatch.setattr(cpu_linear.platform, "machine", lambda: machine)
    assert not has_fbgemm()
