"""The packed network computes what transformers' own does, and keeps Python out of the pass."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModel, BertConfig, RobertaConfig, XLMRobertaConfig

from deployments.embedding.engine.cpu_encoder import pack_network
from deployments.embedding.engine.cpu_linear import can_pack
from deployments.embedding.engine.layout import Layout

CPU = torch.device("cpu")
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 50,
    "initializer_range": 0.5,
}
FAMILIES = [BertConfig, RobertaConfig, XLMRobertaConfig]
needs_packing = pytest.mark.skipif(
    not can_pack(CPU, torch.bfloat16), reason="this processor has no fast bfloat16"
)


def tiny(config_class, **changes):
    torch.manual_seed(0)
    model = AutoModel.from_config(config_class(**{**SIZES, **changes}))
    return model.to(torch.bfloat16).eval()


@needs_packing
@torch.inference_mode()
@pytest.mark.parametrize("config_class", FAMILIES)
def test_same_states(config_class):
    model, ids, positions = tiny(config_class), torch.randint(3, 50, (36,)), torch.arange(2, 38)
    for part in (slice(0, 20), slice(20, 32)):
        positions[part] = torch.arange(2, 2 + part.stop - part.start)
    layout = Layout([20, 12], CPU, torch.bfloat16, causal=False)
    found = pack_network(model)(ids, positions, layout.groups)
    model = tiny(config_class).float()
    for part in (slice(0, 20), slice(20, 32)):
        own = {"input_ids": ids[None, part], "position_ids": positions[None, part]}
        expected = model(**own).last_hidden_state[0]
        same = torch.cosine_similarity(found[part].float(), expected)
        assert same.min() > 0.99, same  # two bfloat16 layers of large weights
    assert found.isfinite().all(), "what stands behind the last text"


@needs_packing
def test_the_pass_is_one_call():
    assert isinstance(pack_network(tiny(BertConfig)), torch.jit.ScriptModule)


@pytest.mark.parametrize("changes", [{"hidden_act": "relu"}, {"hidden_act": "gelu_new"}])
def test_another_activation_is_left_alone(changes):
    assert pack_network(tiny(BertConfig, **changes)) is None
