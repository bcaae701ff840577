"""Whether a folder holds a sparse encoder that can be served, by its files."""

from __future__ import annotations

import json

import pytest

from deployments.core.errors import UnsupportedModel
from deployments.core.models.local_format import read_spec
from deployments.core.models.overrides import Overrides, applied
from deployments.core.models.prompts import Templates
from deployments.core.models.sparse_encoders import is_sparse_encoder
from deployments.core.models.spec import Kind, Pooling

PACKAGE = "sentence_transformers.sparse_encoder.models"
READER, SPLADE = f"{PACKAGE}.MLMTransformer", f"{PACKAGE}.SpladePooling"
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
CONFIG = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "vocab_size": 500,
    "hidden_size": 32,
    "max_position_embeddings": 64,
}
SETTINGS = "config_sentence_transformers.json"


def write(folder, name, content):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_modules(folder, *kinds):
    paths = ["", *(f"{number}_Module" for number in range(1, len(kinds)))]
    lines = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    write(folder, "modules.json", lines)


@pytest.fixture
def folder(tmp_path):
    """As the authors of SPLADE save theirs."""
    write(tmp_path, "config.json", CONFIG)
    write(tmp_path, "sentence_bert_config.json", {"max_seq_length": 48})
    write(tmp_path, SETTINGS, {"model_type": "SparseEncoder", "prompts": {"query": "find: "}})
    write(tmp_path, "1_Module/config.json", {"pooling_strategy": "max"})
    write_modules(tmp_path, READER, SPLADE)
    return tmp_path


def test_a_language_model_with_its_pooling_is_a_sparse_encoder(folder):
    spec = read_spec("own", folder)
    assert (spec.kind, spec.dimension, spec.max_tokens) == (Kind.SPARSE, 500, 48)
    assert (spec.pooling, spec.normalize, spec.prompts.query) == (None, False, "find: ")


def test_the_pooling_alone_tells_a_sparse_encoder(folder):
    write(folder, SETTINGS, {})
    assert read_spec("own", folder).kind is Kind.SPARSE


def test_a_transformer_with_the_task_is_as_good(folder):
    write_modules(folder, TRANSFORMER, SPLADE)
    settings = {"max_seq_length": 48, "transformer_task": "fill-mask"}
    write(folder, "sentence_bert_config.json", settings)
    assert read_spec("own", folder).kind is Kind.SPARSE


def test_an_embedding_model_is_none(folder):
    write(folder, SETTINGS, {})
    write_modules(folder, TRANSFORMER, "sentence_transformers.models.Pooling")
    assert not is_sparse_encoder(folder)


@pytest.mark.parametrize(
    ("kinds", "word"),
    [
        ([f"{PACKAGE}.Router"], "Router"),
        ([f"{PACKAGE}.SparseStaticEmbedding"], "SparseStaticEmbedding"),
        ([TRANSFORMER, f"{PACKAGE}.Pooling", f"{PACKAGE}.SparseAutoEncoder"], "SparseAutoEncoder"),
        ([READER, SPLADE, f"{PACKAGE}.Normalize"], "Normalize"),
        (["custom.MLMTransformer", SPLADE], "custom"),
        ([TRANSFORMER, SPLADE], "transformer_task"),
    ],
)
def test_other_sparse_encoders_are_refused_by_name(folder, kinds, word):
    write_modules(folder, *kinds)
    with pytest.raises(UnsupportedModel, match=word):
        read_spec("own", folder)


def test_a_cut_to_the_largest_entries_is_refused(folder):
    write(folder, SETTINGS, {"model_type": "SparseEncoder", "max_active_dims": 64})
    with pytest.raises(UnsupportedModel, match="max_active_dims"):
        read_spec("own", folder)


def test_a_vocabulary_of_unknown_size_is_refused(folder):
    write(folder, "config.json", {**CONFIG, "vocab_size": None})
    with pytest.raises(UnsupportedModel, match="vocab_size"):
        read_spec("own", folder)


@pytest.mark.parametrize(
    "overrides",
    [
        Overrides(pooling=Pooling.MEAN),
        Overrides(normalize=True),
        Overrides(dimensions=(64,)),
    ],
)
def test_the_config_cannot_make_other_vectors_of_it(folder, overrides):
    spec = read_spec("own", folder, overrides=overrides)
    with pytest.raises(UnsupportedModel, match="sparse"):
        applied(spec, overrides)


def test_the_config_may_state_prompts_and_a_limit(folder):
    overrides = Overrides(prompts=Templates("q: {text}"), max_tokens=16)
    spec = applied(read_spec("own", folder, overrides=overrides), overrides)
    assert (spec.prompts.query, spec.max_tokens) == ("q: ", 16)
