"""Short passes as a GPU records and replays them: the vectors are those of plain passes on the CPU."""

from __future__ import annotations

import pytest
import torch

from deployments.core.engine.cuda import graphs as cuda_graphs
from deployments.core.engine.engine import TorchEngine
from deployments.core.models.local_format import read_spec
from testing.models.architectures import BACKBONES, save_backbone
from testing.models.files import edit_json
from testing.models.tiny import save_bert, save_encoder, save_mistral, save_xlm_roberta
from tests.fidelity.test_fixed_passes import BATCHES, WINDOW, batch_of
from tests.fidelity.token_ids import spec_of
from tests.support.tolerance import BFLOAT16, worst_cosine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("save", [save_bert, save_xlm_roberta, save_mistral])
def test_the_vectors_are_the_same(tmp_path, monkeypatch, save, dtype):
    monkeypatch.setattr(cuda_graphs, "_seconds", lambda device, run: 1.0)  # whatever is faster here
    spec = read_spec("own", save(tmp_path))
    if save is save_mistral:
        edit_json(tmp_path / "config.json", sliding_window=WINDOW)
    plain = TorchEngine(spec, tmp_path, "cpu", "float32")
    fixed = TorchEngine(spec, tmp_path, "cuda", dtype)
    assert [fixed.rounded(tokens) for tokens in (5, 61, 600)] == [16, 64, 600]
    for lengths in BATCHES:
        batch = batch_of(lengths, plain.vocabulary)
        assert worst_cosine(fixed.forward(batch), plain.forward(batch)) >= BFLOAT16


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", BACKBONES)
def test_newer_backbones(tmp_path, monkeypatch, name, dtype):
    monkeypatch.setattr(cuda_graphs, "_seconds", lambda device, run: 1.0)
    backbone = BACKBONES[name]
    folder = save_backbone(tmp_path, name)
    spec = spec_of(folder, backbone.model_type, backbone.pooling, max_tokens=200)
    plain = TorchEngine(spec, folder, "cpu", "float32")
    fixed = TorchEngine(spec, folder, "cuda", dtype)
    for lengths in BATCHES:
        batch = batch_of(lengths, plain.vocabulary)
        assert worst_cosine(fixed.forward(batch), plain.forward(batch)) >= BFLOAT16


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["electra", "fnet"])
def test_the_general_path(tmp_path, model_type, dtype):
    folder = save_encoder(tmp_path, model_type)
    spec = spec_of(folder, model_type)
    plain = TorchEngine(spec, folder, "cpu", "float32")
    on_gpu = TorchEngine(spec, folder, "cuda", dtype)
    for lengths in BATCHES:
        batch = batch_of(lengths, plain.vocabulary)
        assert worst_cosine(on_gpu.forward(batch), plain.forward(batch)) >= BFLOAT16
