"""What a replica finds when it compares a model with sentence-transformers as it loads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deployments.core.checking import verdict as checking
from deployments.core.checking.comparison import (
    expectations,
    token_difference,
    vector_difference,
)
from deployments.core.checking.reference import Reference
from deployments.core.checking.verdict import Engines, checked_engine
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from deployments.core.errors import UnsupportedModel
from deployments.core.models.description import Description, describe
from deployments.core.models.loading import find_model
from deployments.core.models.spec import Pooling, Prompts, Side, SpecialTokens
from testing.models.architectures import save_family
from testing.models.files import Recipe, edit_json
from testing.models.tiny import save_bert

PROMPTS = {"query": "query: ", "document": "passage: "}
RECIPE = Recipe(prompts=PROMPTS, max_seq_length=48, normalize=False)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = save_bert(tmp_path_factory.mktemp("checked"), RECIPE, cased=True)
    return find_model("own", str(folder))


@pytest.fixture(scope="module")
def expected(files):
    return expectations(Reference(files, torch.device("cpu"), torch.float32), files.spec)


@pytest.fixture(scope="module")
def description(files):
    return describe(files.spec, files.folder)


def changed(description: Description, **changes: object) -> Description:
    return replace(description, spec=replace(description.spec, **changes))


def test_a_right_description_and_engine_agree_with_sentence_transformers(
    files, expected, description
):
    engine = TorchEngine(description.spec, files.folder, "cpu", "float32")
    assert token_difference(description, expected) is None
    assert vector_difference(description, engine, "float32", expected) is None
    assert sum(len(side.texts) for side in expected) >= 70


TOKEN_SLIPS = {
    "no prompts": {"prompts": Prompts()},
    "prompts the wrong way round": {"prompts": Prompts("passage: ", "query: ")},
    "one token too many": {"max_tokens": 49},
    "one token too few": {"max_tokens": 47},
    "cut at the start": {"truncation_side": Side.LEFT},
    "no end token": {"special_tokens": SpecialTokens((2,), ())},
    "end token twice": {"special_tokens": SpecialTokens((2,), (3, 3))},
}


@pytest.mark.parametrize("slip", TOKEN_SLIPS)
def test_a_slip_in_the_description_shows_in_token_ids(expected, description, slip):
    assert token_difference(changed(description, **TOKEN_SLIPS[slip]), expected)


def test_so_does_a_tokenizer_of_other_settings(expected, description, files):
    lower = describe(replace(files.spec, lowercase=True), files.folder)
    assert token_difference(lower, expected)


VECTOR_SLIPS = {
    "first token": {"pooling": Pooling.CLS},
    "last token": {"pooling": Pooling.LAST_TOKEN},
}


@pytest.mark.parametrize("slip", VECTOR_SLIPS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_slip_in_the_recipe_shows_in_vectors(files, expected, description, slip, dtype):
    wrong = changed(description, **VECTOR_SLIPS[slip])
    engine = TorchEngine(wrong.spec, files.folder, "cpu", dtype)
    assert "cosine" in vector_difference(wrong, engine, dtype, expected)


def test_neighbours_that_change_a_vector_show(files, expected, description, monkeypatch):
    engine = TorchEngine(description.spec, files.folder, "cpu", "float32")
    forward = engine.forward

    def leaking(batch):
        vectors = forward(batch)
        return vectors if len(batch) == 1 else vectors + vectors.mean(axis=0)

    monkeypatch.setattr(engine, "forward", leaking)
    assert "in a batch" in vector_difference(description, engine, "float32", expected)


def test_a_description_that_is_wrong_is_refused_at_load(files, description):
    wrong = changed(description, prompts=Prompts())
    with pytest.raises(UnsupportedModel, match=r"token ids .* in sentence-transformers"):
        checked_engine(Engines(wrong, files, "cpu", "float32"))


def test_where_the_fast_path_is_wrong_the_general_one_serves(files, description):
    # the fast path pools as the description says, the general one as the files do
    wrong = changed(description, pooling=Pooling.CLS)
    engine, verdict = checked_engine(Engines(wrong, files, "cpu", "float32"))
    assert engine.network is verdict.network is Network.GENERAL
    assert "cosine" in verdict.why_general


def test_a_verdict_is_kept_for_the_same_files(files, description, monkeypatch):
    engines = Engines(description, files, "cpu", "float32")
    _, first = checked_engine(engines)
    assert (first.network, first.why_general) == (Network.FAST, None)
    assert first.compared_with.startswith("sentence-transformers 6.")
    monkeypatch.setattr(checking, "_expected", lambda *_: pytest.fail("compared again"))
    engine, again = checked_engine(engines)
    assert again == first
    assert engine.network is Network.FAST


def test_other_files_are_compared_again(tmp_path, monkeypatch):
    folder = save_bert(tmp_path, RECIPE)
    files = find_model("own", str(folder), "main")
    checked_engine(Engines(describe(files.spec, folder), files, "cpu", "float32"))
    edit_json(folder / "config.json", hidden_act="relu")
    monkeypatch.setattr(checking, "_expected", lambda *_: pytest.fail("compared again"))
    with pytest.raises(pytest.fail.Exception, match="compared again"):
        checked_engine(Engines(describe(files.spec, folder), files, "cpu", "float32"))


def test_token_types_other_than_zero_take_the_general_path(tmp_path):
    from testing.models.combinations import COMBINATIONS

    folder = COMBINATIONS["bert, tokenizer: template with types"].save(tmp_path)
    files = find_model("own", str(folder))
    engine, verdict = checked_engine(Engines(describe(files.spec, folder), files, "cpu", "float32"))
    assert engine.network is Network.GENERAL
    assert "token_type_id" in verdict.why_general


@pytest.mark.parametrize("family", ["mistral", "xlm-roberta", "qwen2"])
def test_a_card_that_states_more_than_the_files_is_what_holds(tmp_path, family):
    folder = save_family(tmp_path, family, Recipe(max_seq_length=48))
    files = find_model("own", str(folder))
    stated = replace(
        files.spec,
        prompts=Prompts("q: ", "d: "),
        max_tokens=40,
        special_tokens=SpecialTokens((1,), (2,)),
    )
    stated_files = replace(files, spec=stated, described_by_files=False)
    expected = expectations(Reference(stated_files, torch.device("cpu"), torch.float32), stated)
    description = describe(stated, folder)
    engine = TorchEngine(description.spec, folder, "cpu", "float32")
    assert token_difference(description, expected) is None
    assert vector_difference(description, engine, "float32", expected) is None
    assert token_difference(describe(files.spec, folder), expected)
