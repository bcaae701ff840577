"""An engine whose short passes have fixed shapes, as on a GPU: the vectors are those without them.

The CPU stands in for the GPU: fused attention is written out by where texts end, and what would be
recorded is called again.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deployments.core.batch import TokenBatch
from deployments.core.engine import attention, engine, networks
from deployments.core.engine.cuda import graphs as cuda_graphs
from deployments.core.engine.cuda.graphs import Recorder
from deployments.core.models.local_format import read_spec
from testing.models.architectures import BACKBONES, save_backbone
from testing.models.files import edit_json
from testing.models.tiny import save_bert, save_mistral, save_xlm_roberta
from tests.fidelity.token_ids import spec_of

BATCHES = [[5], [12] * 3, [3, 40, 17, 1], [60, 58], [2] * 70, [55] * 12]
WINDOW = 16


def varlen_attn(query, key, value, ends, _, longest, __, scale, window_size, enable_gqa):
    """What torch's function of this name computes, written out for the CPU."""
    actual = torch.full_like(query, torch.nan)
    for start, stop in pairwise(ends.tolist()):
        assert stop - start <= longest
        own = (states[None, start:stop].transpose(1, 2) for states in (query, key, value))
        seen = torch.ones(stop - start, stop - start, dtype=torch.bool)
        back, ahead = window_size
        seen = seen.tril(ahead) if ahead >= 0 else seen
        seen = seen.triu(-back) if back >= 0 else seen
        states = F.scaled_dot_product_attention(
            *own, attn_mask=seen, scale=scale, enable_gqa=enable_gqa
        )
        actual[start:stop] = states[0].transpose(0, 1)
    return actual


@pytest.fixture
def gpu_like(monkeypatch):
    """Engines that are made from now on take the way of a GPU."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    for module in (attention, networks):
        monkeypatch.setattr(module, "can_fuse", lambda *_: True)
    monkeypatch.setattr(engine, "choose_packing", lambda *_: None)
    recorder = Recorder(lambda run: run, lambda run: 1.0)
    monkeypatch.setattr(cuda_graphs, "_cuda", lambda device: recorder)


def batch_of(lengths, vocabulary):
    dice = np.random.default_rng(len(lengths))
    return TokenBatch.from_lists([dice.integers(3, vocabulary, n).tolist() for n in lengths])


@pytest.mark.parametrize("name", ["modernbert", "gte", "qwen3 with windows", "gemma3 both ways"])
def test_newer_backbones(tmp_path, name, request):
    backbone = BACKBONES[name]
    folder = save_backbone(tmp_path, name)
    spec = spec_of(folder, backbone.model_type, backbone.pooling, max_tokens=200)
    check(spec, folder, request, fixed=[16, 64, 600])


def test_attention_with_a_bias_stays_plain(tmp_path, request):
    spec = spec_of(save_backbone(tmp_path, "mpnet"), "mpnet", max_tokens=200)
    check(spec, tmp_path, request, fixed=[5, 61, 600])


@pytest.mark.parametrize("save", [save_bert, save_xlm_roberta, save_mistral])
def test_the_vectors_are_the_same(tmp_path, save, request):
    spec = read_spec("own", save(tmp_path))
    if save is save_mistral:
        edit_json(tmp_path / "config.json", sliding_window=WINDOW)
    check(spec, tmp_path, request, fixed=[16, 64, 600])


def check(spec, folder, request, fixed):
    """The engine rounds 5, 61 and 600 tokens to ``fixed``, and gives the plain engine's vectors."""
    plain = engine.TorchEngine(spec, folder, "cpu", "float32")
    batches = [batch_of(lengths, plain.vocabulary) for lengths in BATCHES]
    expected = [plain.forward(batch) for batch in batches]
    request.getfixturevalue("gpu_like")
    like_a_gpu = engine.TorchEngine(spec, folder, "cpu", "float32")
    assert [like_a_gpu.rounded(tokens) for tokens in (5, 61, 600)] == fixed
    for batch, vectors in zip(batches, expected, strict=True):
        np.testing.assert_allclose(like_a_gpu.forward(batch), vectors, rtol=1e-3, atol=1e-4)
