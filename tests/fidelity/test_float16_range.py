"""All in float16, as on GPUs whose bfloat16 is slow: what needs a wider range is not served so."""

from __future__ import annotations

import weakref
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.core.engine import device, engine, general, networks
from deployments.core.engine.cpu.linear import TooLargeForFloat16
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.warmup import sample
from deployments.core.models.local_format import read_spec
from testing.models.tiny import save_bert, save_encoder

SAVES = {"fast": save_bert, "general": lambda folder: save_encoder(folder, "electra")}


@pytest.fixture(autouse=True)
def gpu_like(monkeypatch):
    """The CPU computes in float16 from now on."""
    monkeypatch.setattr(device, "_preferred", lambda _: ("float16",))
    monkeypatch.setattr(engine, "choose_packing", lambda *_: None)


def make_large(folder):
    """Gives the first layer weights that float16 can hold, and sums that it cannot."""
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name in ("intermediate.dense.bias", "ffn.lin1.bias"):
        weights |= {key: torch.full_like(weights[key], 30_000) for key in weights if name in key}
    for name in ("0.output.dense.weight", "ffn.lin2.weight"):
        weights |= {key: torch.ones_like(weights[key]) for key in weights if name in key}
    save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture(params=SAVES)
def large(tmp_path, request):
    spec = read_spec("own", SAVES[request.param](tmp_path))
    make_large(tmp_path)
    return spec, tmp_path


@pytest.mark.parametrize("save", SAVES)
def test_a_model_that_fits_keeps_its_precision(tmp_path, save):
    actual = TorchEngine(read_spec("own", SAVES[save](tmp_path)), tmp_path, "cpu")
    assert actual.computes_in is torch.float16


def test_one_that_overflows_runs_in_float32(large, caplog):
    actual = TorchEngine(*large, "cpu")
    assert actual.dtype is torch.float32
    assert "own runs in float32: its vectors overflow float16" in caplog.text
    assert np.isfinite(actual.forward(sample(actual, 4, 8))).all()


def test_one_that_overflows_is_refused_where_float16_is_asked_for(large):
    with pytest.raises(TooLargeForFloat16, match="set the model's `dtype` to float32 or bfloat16"):
        TorchEngine(*large, "cpu", "float16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_precisions_that_are_advised_do(large, dtype):
    actual = TorchEngine(*large, "cpu", dtype)
    assert np.isfinite(actual.forward(sample(actual, 4, 8))).all()


def test_the_narrow_weights_are_gone_before_the_wide_ones_come(large, monkeypatch):
    models, alive = [], []

    def watched(load, *args, **kwargs):
        alive.append(sum(model() is not None for model in models))
        model = load(*args, **kwargs)
        models.append(weakref.ref(model))
        return model

    for module, name in ((networks, "load_pretrained"), (general, "load_modules")):
        monkeypatch.setattr(module, name, partial(watched, getattr(module, name)))
    TorchEngine(*large, "cpu")
    assert alive == [0, 0]
