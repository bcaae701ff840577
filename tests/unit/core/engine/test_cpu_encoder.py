"""The packed network computes what transformers' own does, and keeps Python out of the pass."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, BertConfig, RobertaConfig, XLMRobertaConfig

from deployments.core.engine.cpu.encoder import pack_network
from deployments.core.engine.cpu.linear import FBGEMM, ONE_DNN, PLAIN
from deployments.core.engine.layout import Layout
from tests.support.hardware import CPU, PACKINGS

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 50,
    "initializer_range": 0.5,
}
FAMILIES = [BertConfig, RobertaConfig, XLMRobertaConfig]
WORST = {PLAIN: 0.999999, ONE_DNN: 0.99, FBGEMM: 0.9999}  # two layers of large weights


def tiny(config_class, packing=PLAIN, **changes):
    torch.manual_seed(0)
    model = AutoModel.from_config(config_class(**{**SIZES, **changes}))
    return model.to(packing.loads or torch.float32).eval()


@torch.inference_mode()
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("config_class", FAMILIES)
def test_same_states(config_class, packing):
    model, ids = tiny(config_class, packing), torch.randint(3, 50, (36,))
    positions = torch.arange(2, 38)
    for part in (slice(0, 20), slice(20, 32)):
        positions[part] = torch.arange(2, 2 + part.stop - part.start)
    layout = Layout([20, 12], CPU, packing.computes_in, causal=False)
    actual = pack_network(model, packing)(ids, positions, layout.groups)
    model = tiny(config_class).float()
    for part in (slice(0, 20), slice(20, 32)):
        own = {"input_ids": ids[None, part], "position_ids": positions[None, part]}
        expected = model(**own).last_hidden_state[0]
        same = torch.cosine_similarity(actual[part].float(), expected)
        assert same.min() > WORST[packing], same
    assert actual.isfinite().all(), "what stands behind the last text"


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_pass_is_one_call(packing):
    network = pack_network(tiny(BertConfig, packing), packing)
    assert isinstance(network, torch.jit.ScriptModule)


@torch.inference_mode()
@pytest.mark.parametrize("packing", PACKINGS)
def test_weights_that_are_stored_in_half_precision(packing):
    ids, layout = torch.arange(20), Layout([20], CPU, packing.computes_in, causal=False)
    network = pack_network(tiny(BertConfig, packing).to(packing.loads or torch.float16), packing)
    assert network(ids, torch.arange(20), layout.groups).dtype is packing.computes_in


@pytest.mark.parametrize(
    "changes", [{"hidden_act": "relu"}, {"hidden_act": "gelu_new"}, {"is_decoder": True}]
)
def test_another_network_is_left_alone(changes):
    assert pack_network(tiny(BertConfig, **changes), PLAIN) is None
