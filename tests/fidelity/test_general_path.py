"""Whatever modules a model has, the engine gives what sentence-transformers gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import (
    Dropout,
    LayerNorm,
    Pooling,
    StaticEmbedding,
)
from torch import nn
from transformers import AutoConfig, T5Config, T5EncoderModel

from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from deployments.core.errors import ModelUnavailable, UnsupportedModel
from deployments.core.models.spec import Role
from testing.models.architectures import save_backbone
from testing.models.files import edit_json
from testing.models.tiny import save_bert, save_encoder
from testing.models.tokenizers import wordpiece
from tests.fidelity.token_ids import LENGTHS, batch_of, reference, spec_of, with_prompts
from tests.support.tolerance import FLOAT32, WORST, worst_cosine

Make = Callable[[Path], list[nn.Module]]


def bert(folder: Path) -> Transformer:
    return Transformer(str(save_bert(folder / "bert")))


def dense(size: int, **how: object) -> Dense:
    return Dense(size, 24, **how)


TAILS: dict[str, Callable[[], list[nn.Module]]] = {
    **{mode: lambda mode=mode: [Pooling(32, mode)] for mode in Pooling.POOLING_MODES},
    "two poolings": lambda: [Pooling(32, ("weightedmean", "cls"))],
    "dense": lambda: [Pooling(32), dense(32), Normalize()],
    "dense twice, without activation": lambda: [
        Pooling(32),
        Dense(32, 64, bias=False, activation_function=nn.Identity()),
        dense(64, bias=False, activation_function=nn.Identity()),
        Normalize(),
    ],
    "dense with a residual": lambda: [Pooling(32), dense(32, use_residual=True)],
    "dense of tokens": lambda: [dense(32, module_input_name="token_embeddings"), Pooling(24)],
    "layer norm and dropout": lambda: [Pooling(32), LayerNorm(32), Dropout(0.5)],
    "normalised before dense": lambda: [Pooling(32), Normalize(), dense(32)],
    "normalised tokens": lambda: [Normalize("token_embeddings"), Pooling(32)],
}


def save(folder: Path, modules: list[nn.Module]) -> Path:
    torch.manual_seed(0)
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def dimension_of(folder: Path) -> int:
    return int(SentenceTransformer(str(folder), device="cpu").get_embedding_dimension())


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("tail", TAILS)
def test_modules_behind_the_transformer(tmp_path, tail):
    torch.manual_seed(1)
    folder = save(tmp_path, [bert(tmp_path), *TAILS[tail]()])
    spec = spec_of(
        folder,
        "bert",
        {"cls": "cls", "lasttoken": "lasttoken"}.get(tail, "mean"),
        dimension=dimension_of(folder),
    )
    batch = batch_of()
    expected = reference(folder, batch)
    for network in (Network.FAST, Network.GENERAL):
        engine = TorchEngine(spec, folder, "cpu", "float32", network=network)
        vectors = engine.forward(batch)
        if "Normalize" in json.loads((folder / "modules.json").read_text())[-1]["type"]:
            vectors = unit(vectors)  # as the client does
        np.testing.assert_allclose(vectors, expected, rtol=1e-3, atol=1e-4, err_msg=network)


def test_a_gemma_with_two_dense_layers_takes_the_fast_path(tmp_path):
    transformer = Transformer(str(save_backbone(tmp_path / "gemma", "gemma3 both ways")))
    folder = save(tmp_path, [transformer, *TAILS["dense twice, without activation"]()])
    spec = spec_of(folder, "gemma3_text", dimension=24)
    for dtype in ("float32", "bfloat16"):
        engine = TorchEngine(spec, folder, "cpu", dtype)
        assert engine.network is Network.FAST
        batch = batch_of()
        assert worst_cosine(engine.forward(batch), reference(folder, batch)) >= WORST[dtype]


def t5(folder: Path) -> Transformer:
    folder = save_bert(folder / "t5")  # its tokenizer and recipe
    config = T5Config(
        vocab_size=1_000, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, dropout_rate=0.0
    )
    torch.manual_seed(0)
    T5EncoderModel(config).save_pretrained(folder)
    return Transformer(str(folder))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_encoder_of_a_t5(tmp_path, dtype):
    folder = save(tmp_path, [t5(tmp_path), Pooling(32), dense(32), Normalize()])
    spec = spec_of(folder, "t5", dimension=24)
    engine = TorchEngine(spec, folder, "cpu", dtype)
    assert engine.why_general == "the attention of t5 is not known"
    batch = batch_of()
    assert worst_cosine(engine.forward(batch), reference(folder, batch)) >= WORST[dtype]


def test_static_embeddings(tmp_path):
    torch.manual_seed(0)
    folder = save(tmp_path, [StaticEmbedding(wordpiece(), embedding_dim=48), Normalize()])
    spec = spec_of(folder, "static", dimension=48)
    engine = TorchEngine(spec, folder, "cpu")
    assert not engine.pads
    batch = batch_of()
    np.testing.assert_allclose(unit(engine.forward(batch)), reference(folder, batch), atol=1e-5)


ROLES = [Role.QUERY, Role.DOCUMENT] * (len(LENGTHS) // 2)


def test_a_router_takes_each_text_by_its_role(tmp_path):
    torch.manual_seed(0)
    routes = {
        "query": [StaticEmbedding(wordpiece(), embedding_dim=32)],
        "document": [bert(tmp_path), Pooling(32)],
    }
    folder = save(tmp_path, [Router(routes, default_route="document"), Normalize()])
    engine = TorchEngine(spec_of(folder, "bert"), folder, "cpu", "float32")
    assert engine.wants_prompts
    batch = batch_of(vocabulary=900)
    expected = reference(folder, batch, ROLES)
    prompted = with_prompts(batch, ROLES, [0] * len(batch))
    assert worst_cosine(engine.forward(prompted), expected) >= FLOAT32
    as_documents = reference(folder, batch, [Role.DOCUMENT] * len(batch))
    assert worst_cosine(engine.forward(batch), as_documents) >= FLOAT32


@pytest.mark.parametrize("mode", Pooling.POOLING_MODES)
def test_prompts_that_are_not_pooled(tmp_path, mode):
    folder = save(tmp_path, [bert(tmp_path), Pooling(32, mode, include_prompt=False)])
    engine = TorchEngine(spec_of(folder, "bert"), folder, "cpu", "float32")
    assert engine.why_general == "it does not pool its prompt (include_prompt: false)"
    batch = batch_of([9, 12, 30, 30, 64, 7])
    prompts = [3, 0, 5, 0, 5, 3]
    roles = [Role.DOCUMENT] * len(batch)
    expected = reference(folder, batch, roles, prompts)
    actual = engine.forward(with_prompts(batch, roles, prompts))
    assert worst_cosine(actual, expected) >= FLOAT32


@pytest.mark.parametrize("model_type", ["fnet", "yoso", "nystromformer"])
def test_a_model_that_padding_changes_is_not_padded(tmp_path, model_type):
    folder = save_encoder(tmp_path, model_type)
    engine = TorchEngine(spec_of(folder, model_type), folder, "cpu", "float32")
    assert not engine.pads
    batch = batch_of()
    assert worst_cosine(engine.forward(batch), reference(folder, batch)) >= FLOAT32


def test_a_transformer_in_a_subfolder(tmp_path):
    folder = save(tmp_path, [bert(tmp_path), Pooling(32)])
    (folder / "0_Transformer").mkdir()
    for file in [*folder.glob("*.safetensors"), folder / "config.json", *folder.glob("token*")]:
        file.rename(folder / "0_Transformer" / file.name)
    (folder / "sentence_bert_config.json").rename(
        folder / "0_Transformer" / "sentence_bert_config.json"
    )
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[0]["path"] = "0_Transformer"
    path.write_text(json.dumps(modules))
    batch = batch_of()
    expected = reference(folder, batch)
    for network in (Network.FAST, Network.GENERAL):
        engine = TorchEngine(spec_of(folder, "bert"), folder, "cpu", "float32", network=network)
        assert worst_cosine(engine.forward(batch), expected) >= FLOAT32


def test_a_folder_without_modules_pools_as_described(tmp_path):
    folder = save_bert(tmp_path)
    (folder / "modules.json").unlink()
    spec, batch = spec_of(folder, "bert", "cls"), batch_of()
    fast, general = (
        TorchEngine(spec, folder, "cpu", "float32", network=network).forward(batch)
        for network in (Network.FAST, Network.GENERAL)
    )
    np.testing.assert_allclose(general, fast, rtol=1e-3, atol=1e-4)


def drop_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, path, {"format": "pt"})


def ask_for_code(folder: Path) -> None:
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[1]["type"] = "custom_st.Pooling"
    path.write_text(json.dumps(modules))
    (folder / "custom_st.py").write_text("raise SystemExit('this code must not run')")


REFUSED = {
    "missing weights": (drop_weights, ModelUnavailable, "lack 1 tensors"),
    "code of the model's own": (ask_for_code, UnsupportedModel, "trust_remote_code"),
    "expanded queries": (
        lambda folder: edit_json(
            folder / "sentence_bert_config.json",
            query_expansion={"strategy": "fixed", "attend": True, "length": 32},
        ),
        UnsupportedModel,
        "query_expansion",
    ),
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        UnsupportedModel,
        "peft|PEFT|adapter",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_cannot_be_computed_right_is_refused(tmp_path, fault):
    damage, error, reason = REFUSED[fault]
    folder = save_bert(tmp_path)
    damage(folder)
    with pytest.raises(error, match=reason):
        TorchEngine(spec_of(folder, "bert"), folder, "cpu", network=Network.GENERAL)


def test_a_limit_beyond_the_table_of_positions(tmp_path):
    folder = save_bert(tmp_path)
    for network in (Network.FAST, Network.GENERAL):
        with pytest.raises(UnsupportedModel, match="positions for 64 tokens"):
            TorchEngine(spec_of(folder, "bert", max_tokens=65), folder, "cpu", network=network)


def test_a_model_that_cannot_be_fast_is_refused_where_fast_is_asked_for(tmp_path):
    folder = save_encoder(tmp_path, "electra")
    with pytest.raises(UnsupportedModel, match="fast path: the attention of electra"):
        TorchEngine(spec_of(folder, "electra"), folder, "cpu", network=Network.FAST)


WINDOW = {"is_causal": False, "sliding_window": 16}


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("mistral both ways", WINDOW, "within a window"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "longest text",
        ),
        ("mpnet", {"hidden_act": "relu"}, "activation"),
    ],
)
def test_configs_that_the_fast_path_does_not_know(tmp_path, name, changes, reason):
    folder = save_backbone(tmp_path, name)
    edit_json(folder / "config.json", **changes)
    model_type = AutoConfig.from_pretrained(folder).model_type
    engine = TorchEngine(spec_of(folder, model_type), folder, "cpu", "float32")
    assert reason in engine.why_general
    batch = batch_of()
    if name == "mpnet":
        assert worst_cosine(engine.forward(batch), reference(folder, batch)) >= FLOAT32
