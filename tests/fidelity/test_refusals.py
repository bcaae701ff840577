"""What a model's files ask for and cannot be honoured is refused by name, not ignored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.core.errors import UnsupportedModel
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from deployments.core.models.local_format import read_spec
from testing.models.files import edit_json
from testing.models.tiny import save_bert, save_mistral


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_bert(tmp_path / "tiny")


def pooling(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "1_Pooling" / "config.json", **changes)


def setting(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "sentence_bert_config.json", **changes)


def extra_module(kind: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        path = folder / "modules.json"
        module = {"idx": 3, "name": "3", "path": "3_Extra", "type": kind}
        path.write_text(json.dumps([*json.loads(path.read_text()), module]))

    return add


def without_module(index: int) -> Callable[[Path], None]:
    def drop(folder: Path) -> None:
        path = folder / "modules.json"
        modules = json.loads(path.read_text())
        path.write_text(json.dumps(modules[:index] + modules[index + 1 :]))

    return drop


DESCRIPTIONS = {
    "unknown pooling": (pooling(pooling_mode="attention"), "attention.*supported are"),
    "no dimension": (pooling(word_embedding_dimension=None), "word_embedding_dimension"),
    "no pooling": (without_module(1), "no Pooling module"),
    "no transformer": (without_module(0), "begins with a Pooling module"),
    "no vectors": (extra_module("sentence_transformers.models.BoW"), "BoW module.*not supported"),
    "foreign class": (extra_module("custom_st.Transformer"), "custom_st.Transformer.*never run"),
    "remote code": (
        lambda folder: edit_json(
            folder / "config.json", auto_map={"AutoModel": "code.Model"}, model_type="foreign"
        ),
        "auto_map.*trust_remote_code",
    ),
    "other task": (setting(transformer_task="fill-mask"), "transformer_task: fill-mask"),
    "limit for queries": (setting(query_length=32), "query_length.*not supported"),
    "processing": (setting(processing_kwargs={"text": {"padding": 1}}), "processing_kwargs"),
    "no modules.json": (
        lambda folder: (folder / "modules.json").unlink(),
        "modules.json is missing",
    ),
    "no config.json": (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    "broken JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json is not valid JSON",
    ),
}


@pytest.mark.parametrize("fault", DESCRIPTIONS)
def test_a_description_that_cannot_be_honoured(folder, fault):
    read_spec("own", folder)  # sound until now
    damage, reason = DESCRIPTIONS[fault]
    damage(folder)
    with pytest.raises(UnsupportedModel, match=reason):
        read_spec("own", folder)


def test_no_length_limit(folder):
    (folder / "sentence_bert_config.json").unlink()
    edit_json(folder / "tokenizer_config.json", model_max_length=None)
    edit_json(folder / "config.json", max_position_embeddings=None)
    with pytest.raises(UnsupportedModel, match="max_seq_length"):
        read_spec("own", folder)


@pytest.mark.parametrize("save", [save_bert, save_mistral])
def test_no_tokenizer(tmp_path, save):
    files = find_model("own", str(save(tmp_path)))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModel, match=r"no tokenizer\.json"):
        describe(files.spec, tmp_path)


def test_broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match=r"cannot read the tokenizer"):
        describe(read_spec("own", folder), folder)
