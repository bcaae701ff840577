"""Copies and fine-tunes of models whose prompts stand on their cards only."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from deployments.core.models.catalog import CATALOG
from deployments.core.models.relatives import relative_of, with_prompts_of_relative
from deployments.core.models.spec import Prompts

BERT = {"model_type": "bert", "hidden_size": 384}
BARE = replace(CATALOG["all-MiniLM-L6-v2"], name="mine")


@pytest.fixture
def folder(tmp_path):
    def make(name="mine", card=None, **config):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({**BERT, **config}))
        if card is not None:
            (folder / "README.md").write_text(card)
        return folder

    return make


# as they stand in the configs of fine-tunes on the hub
@pytest.mark.parametrize(
    ("origin", "name"),
    [
        ("intfloat/multilingual-e5-small", "multilingual-e5-small"),
        ("intfloat/E5-Large-V2", "e5-large-v2"),
        ("multilingual-e5-small", "multilingual-e5-small"),
        ("/root/.cache/torch/sentence_transformers/intfloat_e5-large-v2/", "e5-large-v2"),
        ("C:\\Users\\me\\.cache\\torch\\sentence_transformers\\BAAI_bge-m3\\", "bge-m3"),
        ("/mnt/default/longembed/models/intfloat/e5-base-v2", "e5-base-v2"),
    ],
)
def test_the_model_that_a_config_was_made_from(folder, origin, name):
    assert relative_of(folder(_name_or_path=origin), "mine") is CATALOG[name]


@pytest.mark.parametrize(
    "metadata",
    [
        "base_model: intfloat/e5-base-v2\n",
        'base_model: "intfloat/e5-base-v2"\n',
        "base_model:\n- intfloat/e5-base-v2\n",
        "base_model:\n  - acme/other\n  - intfloat/e5-base-v2\npipeline_tag: x\n",
        "license: mit\nbase_model: intfloat/e5-base-v2\nbase_model_relation: finetune\n",
    ],
)
def test_the_base_model_of_a_model_card(folder, metadata):
    card = f"---\n{metadata}---\n# Mine\n"
    assert relative_of(folder(card=card), "mine") is CATALOG["e5-base-v2"]


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# base_model: intfloat/e5-base-v2",
        "---\nlicense: mit\n---\nbase_model: intfloat/e5-small",
    ],
)
def test_a_card_that_names_no_base_model(folder, card):
    assert relative_of(folder(card=card), "mine") is None


@pytest.mark.parametrize(
    ("source", "config", "name"),
    [
        ("/models/e5-small-v2-legal", BERT, "e5-small-v2"),
        ("acme/legal-e5-small", BERT, "e5-small"),
        ("acme/my_E5", BERT, "e5-small"),
        ("acme/bge-small-en-legal", BERT, "bge-small-en-v1.5"),
        ("acme/bge-base-zh-x", {"model_type": "bert", "hidden_size": 768}, "bge-base-zh-v1.5"),
        ("me/snowflake-arctic-embed-s-ft", BERT, "snowflake-arctic-embed-s"),
        (
            "x/nomic-embed-ft",
            {"model_type": "nomic_bert", "hidden_size": 768},
            "nomic-embed-text-v1.5",
        ),
        ("elastic/multilingual-e5-small-optimized", BERT, "multilingual-e5-small"),
    ],
)
def test_a_name_and_the_same_architecture(folder, source, config, name):
    assert relative_of(folder(**config), source) is CATALOG[name]


@pytest.mark.parametrize(
    ("source", "config"),
    [
        ("acme/legal-e5-small", {"model_type": "bert", "hidden_size": 312}),
        ("acme/legal-e5-small", {"model_type": "t5", "hidden_size": 384}),
        ("acme/safe5-small", BERT),
        ("acme/legal-small-base", BERT),
        ("acme/e500", BERT),
    ],
)
def test_another_name_or_architecture(folder, source, config):
    assert relative_of(folder(**config), source) is None


def test_a_relative_lends_its_prompts_and_says_so(folder):
    spec = with_prompts_of_relative(BARE, folder(), "/models/e5-small-v2-legal")
    assert spec.prompts == CATALOG["e5-small-v2"].prompts
    (notice,) = spec.notices
    assert "`prompts`" in notice
    assert "intfloat/e5-small-v2" in notice


def test_a_model_that_states_prompts_keeps_them(folder):
    own = replace(BARE, prompts=Prompts(query="q: "))
    assert with_prompts_of_relative(own, folder(), "/models/e5-small-v2-legal") is own


def test_a_relative_without_prompts_changes_nothing(folder):
    actual = folder(_name_or_path="sentence-transformers/all-MiniLM-L6-v2")
    assert with_prompts_of_relative(BARE, actual, "mine") is BARE


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_config_that_cannot_be_read_is_left_to_others(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert relative_of(tmp_path, "acme/e5-small") is None
    assert relative_of(tmp_path / "missing", "mine") is None
