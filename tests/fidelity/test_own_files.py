"""A model that is read from its own files gives the vectors that sentence-transformers gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from deployments.core.models.description import describe
from deployments.core.models.local_format import read_spec
from deployments.core.models.spec import Role, SpecialTokens
from testing.models.files import LAST_TOKEN, Recipe, edit_json
from testing.models.tiny import save_bert, save_mistral, save_xlm_roberta
from tests.fidelity.cards import e5_card, get_detailed_instruct, mistral_card
from tests.fidelity.conftest import MAX_TOKENS
from tests.fidelity.pipeline import encode
from tests.support.tolerance import FLOAT32, WRONG, cosines, worst_cosine

INSTRUCT = "Instruct: Find what answers\nQuery: "
E5_PROMPTS = {"query": "query: ", "document": "passage: "}
MODELS = {
    "bert, mean": (save_bert, Recipe()),
    "bert, cls": (save_bert, Recipe(pooling="cls")),
    "bert, last token": (save_bert, Recipe(pooling="lasttoken")),
    "bert, not normalised": (save_bert, Recipe(normalize=False)),
    "bert, prompts": (save_bert, Recipe(prompts=E5_PROMPTS)),
    "bert, short": (save_bert, Recipe(max_seq_length=8)),
    "bert, query prompt is the default": (
        save_bert,
        Recipe(prompts={"query": "query: "}, default_prompt_name="query"),
    ),
    "xlm-r, mean": (save_xlm_roberta, Recipe()),
    "xlm-r, cls": (save_xlm_roberta, Recipe(pooling="cls")),
    "xlm-r, lower case": (save_xlm_roberta, Recipe(do_lower_case=True)),
    "xlm-r, instruction": (save_xlm_roberta, Recipe(prompts={"query": INSTRUCT})),
}


def assert_same(actual, expected):
    """Direction, and length too where vectors are not normalised."""
    assert worst_cosine(actual, expected) >= FLOAT32
    lengths = np.linalg.norm(expected, axis=1)
    assert np.linalg.norm(actual, axis=1) == pytest.approx(lengths, rel=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_the_vectors_are_those_of_sentence_transformers(tmp_path, texts, model):
    save, recipe = MODELS[model]
    spec = read_spec("own", save(tmp_path, recipe))
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    assert_same(encode(spec, tmp_path, texts, Role.QUERY), reference.encode_query(texts))
    assert_same(encode(spec, tmp_path, texts, Role.DOCUMENT), reference.encode_document(texts))


def test_lower_case_of_a_cased_tokenizer(tmp_path, texts):
    spec = read_spec("own", save_bert(tmp_path, Recipe(do_lower_case=True), cased=True))
    actual = encode(spec, tmp_path, texts)
    assert_same(actual, SentenceTransformer(str(tmp_path), device="cpu").encode(texts))
    assert cosines(actual, encode(replace(spec, lowercase=False), tmp_path, texts)).min() <= WRONG


def test_a_default_prompt_stands_before_both_roles(tmp_path, texts):
    # as ST's `encode`; its `encode_query` and `encode_document` know no default
    recipe = Recipe(prompts={"sts": "sts: "}, default_prompt_name="sts")
    spec = read_spec("own", save_bert(tmp_path, recipe))
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    for role in Role:
        assert_same(encode(spec, tmp_path, texts, role), expected)


@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_other_names_of_the_document_prompt(tmp_path, texts, name):
    # ST documents these names for `encode_document`, but 6.2 hides them behind an empty "document"
    spec = read_spec("own", save_bert(tmp_path, Recipe(prompts={name: "passage: "})))
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    assert_same(encode(spec, tmp_path, texts), reference.encode(texts, prompt_name=name))


@pytest.mark.parametrize("save", [save_bert, save_xlm_roberta])
def test_files_that_sentence_transformers_6_wrote(tmp_path, texts, save):
    old, new = tmp_path / "old", tmp_path / "new"
    reference = SentenceTransformer(str(save(old, Recipe(prompts=E5_PROMPTS))), device="cpu")
    reference.save_pretrained(str(new))
    spec = read_spec("own", new)
    assert_same(encode(spec, new, texts, Role.QUERY), reference.encode_query(texts))
    assert_same(encode(spec, new, texts, Role.DOCUMENT), reference.encode_document(texts))


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta"])
def test_the_limit_under_an_old_file_name(tmp_path, texts, kind):
    save_xlm_roberta(tmp_path)
    edit_json(tmp_path / "sentence_bert_config.json", max_seq_length=8)
    (tmp_path / "sentence_bert_config.json").rename(tmp_path / f"sentence_{kind}_config.json")
    spec = read_spec("own", tmp_path)
    assert spec.max_tokens == 8
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    assert_same(encode(spec, tmp_path, texts), expected)


def test_a_limit_that_only_the_positions_state(tmp_path, texts):
    # not against ST, which would read two positions too many and fail on long texts
    save_xlm_roberta(tmp_path, Recipe(max_seq_length=16))
    (tmp_path / "sentence_bert_config.json").unlink()
    edit_json(tmp_path / "tokenizer_config.json", model_max_length=None)
    spec = read_spec("own", tmp_path)
    assert spec.max_tokens == 16
    assert_same(encode(spec, tmp_path, texts), e5_card(tmp_path, texts, 16, "right"))


def test_mistral_gets_both_tokens_of_its_tokenizer_config(tmp_path, texts):
    # not against ST: on transformers 5 it pools the last word, for want of the end token
    spec = read_spec(
        "own", save_mistral(tmp_path, replace(LAST_TOKEN, prompts={"query": INSTRUCT}))
    )
    assert describe(spec, tmp_path).spec.special_tokens == SpecialTokens((1,), (2,))
    queries = [get_detailed_instruct("Find what answers", text) for text in texts]
    expected = mistral_card(tmp_path, queries, MAX_TOKENS, "right")
    assert_same(encode(spec, tmp_path, texts, Role.QUERY), expected)
    stock = SentenceTransformer(str(tmp_path), device="cpu").encode_query(texts)
    assert cosines(stock, expected).max() <= WRONG


def test_mistral_that_asks_for_no_end_token_is_as_in_sentence_transformers(tmp_path, texts):
    save_mistral(tmp_path)
    edit_json(tmp_path / "tokenizer_config.json", add_eos_token=False)
    spec = read_spec("own", tmp_path)
    assert describe(spec, tmp_path).spec.special_tokens is None
    expected = SentenceTransformer(str(tmp_path), device="cpu").encode(texts)
    assert_same(encode(spec, tmp_path, texts), expected)
