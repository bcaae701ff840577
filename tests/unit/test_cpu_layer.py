"""A packed layer computes what transformers' own layer does."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, BertConfig, RobertaConfig, XLMRobertaConfig

from deployments.embedding.cpu_layer import PackedLayer, pack_layers
from deployments.embedding.cpu_linear import can_pack
from deployments.embedding.layout import Layout

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 50,
    "initializer_range": 0.5,
}
needs_packing = pytest.mark.skipif(
    not can_pack(CPU, torch.bfloat16), reason="this processor has no fast bfloat16"
)


def tiny(config_class, **changes):
    torch.manual_seed(0)
    model = AutoModel.from_config(config_class(**{**SIZES, **changes}))
    return model.to(torch.bfloat16).eval()


@needs_packing
@pytest.mark.parametrize("config_class", [BertConfig, RobertaConfig, XLMRobertaConfig])
def test_same_states(config_class):
    model = tiny(config_class)
    hidden = torch.randn(1, 20, 64, dtype=torch.bfloat16)
    layout = Layout([20], CPU, torch.bfloat16, causal=False)
    with torch.inference_mode():
        expected = model.encoder.layer[0].float()(hidden.float())
        found = PackedLayer(model.encoder.layer[0].to(torch.bfloat16))(hidden, layout=layout)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.08)


@needs_packing
def test_all_layers_are_replaced():
    model = tiny(BertConfig)
    pack_layers(model)
    assert [type(layer) for layer in model.encoder.layer] == [PackedLayer, PackedLayer]


def test_another_activation_is_left_alone():
    model = tiny(BertConfig, hidden_act="relu")
    pack_layers(model)
    assert PackedLayer not in {type(layer) for layer in model.encoder.layer}
