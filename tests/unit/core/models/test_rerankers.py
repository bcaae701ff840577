"""Whether a folder holds a reranker, and what its scores are, by its files."""

from __future__ import annotations

import json

import pytest

from deployments.core.errors import UnsupportedModel
from deployments.core.models.local_format import read_spec
from deployments.core.models.overrides import Overrides, applied
from deployments.core.models.prompts import Templates
from deployments.core.models.rerankers import is_reranker
from deployments.core.models.spec import Activation, Kind, Pooling

MODULE = "sentence_transformers.base.modules.transformer.Transformer"
CLASSIFIER = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_size": 32,
    "max_position_embeddings": 64,
    "id2label": {"0": "LABEL_0"},
}


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path):
    """As the authors of ms-marco-MiniLM and bge-reranker save them."""
    write(tmp_path, "config.json", CLASSIFIER)
    write(tmp_path, "tokenizer_config.json", {"model_max_length": 48})
    return tmp_path


def saved_by_cross_encoder(folder, *kinds, **settings):
    """As `CrossEncoder.save_pretrained` does since version 5."""
    modules = [{"idx": i, "name": str(i), "path": "", "type": kind} for i, kind in enumerate(kinds)]
    write(folder, "modules.json", modules)
    settings = {"model_type": "CrossEncoder", **settings}
    write(folder, "config_sentence_transformers.json", settings)
    write(folder, "sentence_bert_config.json", {"transformer_task": "sequence-classification"})


def test_a_classifier_with_one_label_is_a_reranker(folder):
    spec = read_spec("own", folder)
    assert (spec.kind, spec.dimension, spec.max_tokens) == (Kind.RERANKER, 1, 48)
    assert (spec.backbone, spec.pooling, spec.normalize) == ("bert", None, False)


def test_a_saved_cross_encoder_is_a_reranker(folder):
    write(folder, "config.json", CLASSIFIER)
    saved_by_cross_encoder(folder, MODULE)
    assert read_spec("own", folder).kind is Kind.RERANKER


def test_a_saved_embedding_model_is_none(folder):
    saved_by_cross_encoder(folder, MODULE, model_type="SentenceTransformer")
    assert not is_reranker(folder)


def test_a_configs_pooling_makes_an_embedding_model_of_a_classifier(folder):
    spec = read_spec("own", folder, overrides=Overrides(pooling=Pooling.MEAN))
    assert (spec.kind, spec.dimension) == (Kind.EMBEDDER, 32)


SIGMOID, IDENTITY = (
    f"torch.nn.modules.{name}" for name in ("activation.Sigmoid", "linear.Identity")
)


@pytest.mark.parametrize(
    ("own", "settings", "activation"),
    [
        ({}, {}, Activation.SIGMOID),
        ({"sbert_ce_default_activation_function": IDENTITY}, {}, Activation.IDENTITY),
        ({"sentence_transformers": {"activation_fn": IDENTITY}}, {}, Activation.IDENTITY),
        ({"sentence_transformers": {"version": "4"}}, {}, Activation.SIGMOID),
        (
            {"sentence_transformers": {"activation_fn": IDENTITY}},
            {"activation_fn": SIGMOID},
            Activation.SIGMOID,
        ),
    ],
)
def test_the_activation_is_that_of_cross_encoder(folder, own, settings, activation):
    write(folder, "config.json", CLASSIFIER | own)
    if settings:
        saved_by_cross_encoder(folder, MODULE, **settings)
    assert read_spec("own", folder).activation is activation


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, "labels"),
        ({"id2label": None}, "labels"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, "Tanh"),
        ({"sentence_transformers": {"activation_fn": "mine.Sigmoid"}}, "mine"),
        ({"auto_map": {"AutoModel": "x.Y"}, "model_type": "unheard_of"}, "auto_map"),
        ({"architectures": ["Qwen3ForCausalLM"], "sentence_transformers": {}}, "ForCausalLM"),
    ],
)
def test_what_cannot_be_honoured_is_refused(folder, changes, word):
    write(folder, "config.json", CLASSIFIER | changes)
    with pytest.raises(UnsupportedModel, match=word):
        read_spec("own", folder)


def test_a_prompt_or_a_further_module_is_refused(folder):
    saved_by_cross_encoder(folder, MODULE, default_prompt_name="q", prompts={"q": "query: "})
    with pytest.raises(UnsupportedModel, match="default_prompt_name"):
        read_spec("own", folder)
    saved_by_cross_encoder(folder, MODULE, "sentence_transformers.cross_encoder.modules.LogitScore")
    with pytest.raises(UnsupportedModel, match="LogitScore"):
        read_spec("own", folder)


@pytest.mark.parametrize(
    "overrides",
    [
        Overrides(prompts=Templates(query="{text}")),
        Overrides(normalize=True),
        Overrides(dimensions=(1,)),
    ],
)
def test_a_config_cannot_shape_vectors_that_there_are_none_of(folder, overrides):
    with pytest.raises(UnsupportedModel, match="reranker"):
        applied(read_spec("own", folder), overrides)
