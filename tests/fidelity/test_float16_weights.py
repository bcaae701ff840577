"""Weights in float16 and all else in float32, from files that store them in any precision."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from deployments.core.engine.cpu.linear import TooLargeForFloat16
from deployments.core.engine.engine import TorchEngine
from deployments.core.models.local_format import read_spec
from testing.models.files import edit_json
from testing.models.tiny import save_bert, save_encoder, save_mistral
from tests.fidelity.pipeline import encode
from tests.support.hardware import needs_fbgemm
from tests.support.tolerance import WORST, worst_cosine

pytestmark = needs_fbgemm
SAVES = {
    "bert": save_bert,
    "mistral": save_mistral,
    "general": lambda folder: save_encoder(folder, "electra"),
}


def store(folder, dtype, named=None):
    """Rewrites the weights in a precision; the config names it, or another."""
    file = folder / "model.safetensors"
    weights = {name: weight.to(dtype) for name, weight in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    edit_json(folder / "config.json", dtype=str(named or dtype).removeprefix("torch."))


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("save", SAVES)
def test_the_vectors_are_those_of_float32(tmp_path, texts, save, stored):
    spec = read_spec("own", SAVES[save](tmp_path))
    store(tmp_path, stored)
    expected = encode(spec, tmp_path, texts, dtype="float32")
    assert (
        worst_cosine(encode(spec, tmp_path, texts, dtype="float16"), expected) >= WORST["float16"]
    )


@pytest.mark.parametrize("named", [torch.float16, torch.bfloat16])
def test_a_config_that_names_a_narrower_precision_loses_nothing(tmp_path, texts, named):
    spec = read_spec("own", save_bert(tmp_path))
    store(tmp_path, torch.float32, named)
    expected = encode(spec, tmp_path, texts, dtype="float32")
    assert (
        worst_cosine(encode(spec, tmp_path, texts, dtype="float16"), expected) >= WORST["float16"]
    )


def test_weights_that_float16_cannot_hold(tmp_path, monkeypatch):
    spec = read_spec("own", save_bert(tmp_path))
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["encoder.layer.0.output.dense.weight"][0, 0] = 70_000.0
    save_file(weights, file, metadata={"format": "pt"})
    monkeypatch.setattr("deployments.core.engine.device._cpu_flags", set)
    assert TorchEngine(spec, tmp_path, "cpu", "auto").dtype is torch.float32
    with pytest.raises(TooLargeForFloat16, match="set the model's `dtype` to float32"):
        TorchEngine(spec, tmp_path, "cpu", "float16")
