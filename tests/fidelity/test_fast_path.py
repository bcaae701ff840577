"""Every backbone on the fast path gives sentence-transformers' vectors, alone and among others."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from testing.models.architectures import BACKBONES, save_backbone
from tests.fidelity.token_ids import batch_of, reference, spec_of
from tests.support.hardware import needs_fbgemm
from tests.support.tolerance import FLOAT32, WORST, cosines, worst_cosine

MAX_TOKENS = 200
# from one token to the limit
LENGTHS = (1, 2, 3, 200, 17, 130, 5, 64, 33, 9, 199)


@pytest.mark.parametrize("name", BACKBONES)
def test_the_vectors_are_those_of_sentence_transformers(tmp_path, name):
    save_backbone(tmp_path, name)
    backbone = BACKBONES[name]
    spec = spec_of(tmp_path, backbone.model_type, backbone.pooling, max_tokens=MAX_TOKENS)
    batch = batch_of(LENGTHS)
    expected = reference(tmp_path, batch)
    engine = TorchEngine(spec, tmp_path, "cpu", "float32", network=Network.FAST)
    assert not engine.pads
    assert worst_cosine(engine.forward(batch), expected) >= FLOAT32
    alone = [engine.forward(batch.slice(row, row + 1)) for row in range(len(batch))]
    assert worst_cosine(np.concatenate(alone), expected) >= FLOAT32
    assert np.median(cosines(expected, np.roll(expected, 1, axis=0))) < 0.9, "texts lie too close"


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=needs_fbgemm)])
@pytest.mark.parametrize("name", BACKBONES)
def test_in_half_precision(tmp_path, name, dtype):
    save_backbone(tmp_path, name)
    backbone = BACKBONES[name]
    spec = spec_of(tmp_path, backbone.model_type, backbone.pooling, max_tokens=MAX_TOKENS)
    batch = batch_of(LENGTHS)
    engine = TorchEngine(spec, tmp_path, "cpu", dtype, network=Network.FAST)
    assert worst_cosine(engine.forward(batch), reference(tmp_path, batch)) >= WORST[dtype]
