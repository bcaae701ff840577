"""What the tokenizer accepts and refuses, over a tokenizer of whole words."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from deployments.core.batch import TokenBatch
from deployments.core.errors import ContextLengthExceeded, InvalidRequest, UnsupportedModel
from deployments.core.models.catalog import CATALOG
from deployments.core.models.spec import Role, Side, SpecialTokens
from deployments.core.models.tokenizer import FastTokenizer, out_of_vocabulary, template_of
from deployments.core.request import TokenInput

FIRST, LAST, UNKNOWN = 0, 1, 2
WORDS = {"<s>": FIRST, "</s>": LAST, "?": UNKNOWN, "a": 3, "B": 4, "b": 5}
SPEC = replace(CATALOG["e5-small"], max_tokens=6)


@pytest.fixture
def words() -> str:
    words = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [("<s>", FIRST), ("</s>", LAST)]
    words.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=special)
    words.enable_truncation(3)  # baked in, and not the model's limit
    return words.to_str()


def ids_of(tokenized):
    batch = tokenized.batch
    return [batch.text(row).tolist() for row in range(len(batch))]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a b", [FIRST, 3, 5, LAST]),
        ("a B", [FIRST, 3, 4, LAST]),
        ("never", [FIRST, UNKNOWN, LAST]),
        ("", [FIRST, LAST]),
        ("a a a a", [FIRST, 3, 3, 3, 3, LAST]),
        ("\x00", [FIRST, UNKNOWN, LAST]),
    ],
)
def test_a_text_stands_in_its_frame(words, text, ids):
    tokenizer = FastTokenizer(SPEC, words)
    assert ids_of(tokenizer.tokenize([text])) == [ids]
    assert ids_of(tokenizer.tokenize([text, "a"])) == [ids, [FIRST, 3, LAST]]


PROMPTED = replace(SPEC, needs_prompts=True)


def prompts_of(tokenizer, texts, role, prompt):
    batch = tokenizer.tokenize([prompt + text for text in texts], truncate=True).batch
    return tokenizer.with_prompts(batch, role, prompt).prompts.tolist()


def test_texts_carry_their_role_and_the_length_of_their_prompt(words):
    tokenizer = FastTokenizer(PROMPTED, words)
    # the prompt with the token before it, not with the one behind the text
    assert prompts_of(tokenizer, ["b", "B a"], Role.QUERY, "a a ") == [[0, 3], [0, 3]]
    assert prompts_of(tokenizer, ["b"], Role.DOCUMENT, "a ") == [[1, 2]]
    assert prompts_of(tokenizer, ["b"], Role.DOCUMENT, "") == [[1, 0]]


def test_a_prompt_is_not_longer_than_its_text(words):
    assert prompts_of(FastTokenizer(PROMPTED, words), ["b"], Role.QUERY, "a " * 9) == [[0, 5]]


def test_a_special_token_at_the_end_of_a_prompt_is_not_of_it(words):
    spec = replace(PROMPTED, special_tokens=SpecialTokens((FIRST,), ()))
    marked = Tokenizer.from_str(words)
    marked.add_special_tokens(["<q>"])
    tokenizer = FastTokenizer(spec, marked.to_str())
    assert prompts_of(tokenizer, ["b"], Role.QUERY, "a <q>") == [[0, 2]]
    assert prompts_of(tokenizer, ["b"], Role.QUERY, "a a ") == [[0, 3]]


def test_other_models_need_no_prompts(words):
    tokenizer = FastTokenizer(SPEC, words)
    batch = tokenizer.tokenize(["a b"]).batch
    assert tokenizer.with_prompts(batch, Role.QUERY, "a ") is batch


def test_the_catalogs_special_tokens_go_before_the_files(words):
    spec = replace(SPEC, special_tokens=SpecialTokens((5,), (4, 4)))
    tokenizer = FastTokenizer(spec, words)
    assert ids_of(tokenizer.tokenize(["a"])) == [[5, 3, 4, 4]]


def test_truncation_keeps_the_frame_and_says_where_it_cut(words):
    actual = FastTokenizer(SPEC, words).tokenize(
        ["a", "b " * 9, "a a a a", "a " * 5], truncate=True
    )
    assert ids_of(actual)[1] == [FIRST, 5, 5, 5, 5, LAST]
    assert actual.truncated == (1, 3)


def test_the_start_of_a_long_text_is_cut_where_the_model_says_so(words):
    tokenizer = FastTokenizer(replace(SPEC, truncation_side=Side.LEFT), words)
    actual = tokenizer.tokenize(["b a a a a", "b a"], truncate=True)
    assert ids_of(actual) == [[FIRST, 3, 3, 3, 3, LAST], [FIRST, 5, 3, LAST]]
    assert actual.truncated == (0,)


LONG = "a " * 9


@pytest.mark.parametrize(
    ("texts", "where", "others"),
    [
        (["a " * 5], "the text has 7", ""),
        (["a", LONG], "text 1 has 11", ""),
        ([LONG, "a", LONG, LONG], "text 0 has 11", " texts 2, 3"),
        ([LONG] * 99, "text 0 has 11", " 19, 20 and 78 more"),
    ],
)
def test_a_text_over_the_limit(words, texts, where, others):
    with pytest.raises(ContextLengthExceeded) as refused:
        FastTokenizer(SPEC, words).tokenize(texts)
    said = refused.value.message
    assert said.startswith(f"{where} tokens, but e5-small takes at most 6")
    assert f"{others}; shorten it, send `truncate`: true" in said
    assert refused.value.param == "input"


@pytest.mark.parametrize(
    ("texts", "where"), [(["\ud800"], "text 0"), (["a", "b", "a\udfff"], "text 2")]
)
def test_half_of_a_surrogate_pair(words, texts, where):
    with pytest.raises(InvalidRequest, match=f"{where} is not valid Unicode.*re-encode") as refused:
        FastTokenizer(SPEC, words).tokenize(texts)
    assert refused.value.param == "input"


def test_a_text_of_nothing_without_a_frame(words):
    tokenizer = FastTokenizer(replace(SPEC, special_tokens=SpecialTokens((), ())), words)
    with pytest.raises(InvalidRequest, match="empty after tokenizing"):
        tokenizer.tokenize([" "])


@pytest.mark.parametrize("name", ["e5-small", "intfloat/e5-small"])
def test_token_ids_of_this_tokenizer(words, name):
    rows = ((FIRST, 3, LAST), (FIRST, LAST))
    assert ids_of(FastTokenizer(SPEC, words).accept_ids(TokenInput(name, rows))) == [
        list(row) for row in rows
    ]


@pytest.mark.parametrize(
    ("name", "ids", "param", "advice"),
    [
        ("cl100k_base", (FIRST, 3, LAST), "tokenizer", "tokenizer 'cl100k_base'"),
        ("e5-small", (3, LAST), "input", r"text 1 must start with \[0\] and end with \[1\]"),
        ("e5-small", (FIRST, 3), "input", "must start with"),
        ("e5-small", (FIRST,), "input", "must start with"),
        ("e5-small", (FIRST, 6, LAST), "input", "text 1 has token ids outside the vocabulary"),
        ("e5-small", (FIRST, -1, LAST), "input", "outside the vocabulary"),
        ("e5-small", (FIRST, 2**31 - 1, LAST), "input", "outside the vocabulary"),
        ("e5-small", (FIRST, *[3] * 9, LAST), "input", "text 1 has 11 tokens"),
    ],
)
def test_token_ids_that_cannot_be_of_this_tokenizer(words, name, ids, param, advice):
    rows = ((FIRST, 3, LAST), ids)
    with pytest.raises(InvalidRequest, match=advice) as refused:
        FastTokenizer(SPEC, words).accept_ids(TokenInput(name, rows))
    assert refused.value.param == param


def test_one_id_is_not_both_ends_of_a_frame(words):
    tokenizer = FastTokenizer(replace(SPEC, special_tokens=SpecialTokens((5,), (5,))), words)
    assert ids_of(tokenizer.accept_ids(TokenInput("e5-small", ((5, 5),)))) == [[5, 5]]
    with pytest.raises(InvalidRequest, match="must start with"):
        tokenizer.accept_ids(TokenInput("e5-small", ((5,),)))


def test_token_ids_are_cut_inside_their_frame(words):
    rows = ((FIRST, *[3] * 9, LAST),)
    actual = FastTokenizer(SPEC, words).accept_ids(TokenInput("e5-small", rows), truncate=True)
    assert (ids_of(actual), actual.truncated) == ([[FIRST, 3, 3, 3, 3, LAST]], (0,))


@pytest.mark.parametrize("content", ["", "{}", "\x00"])
def test_a_tokenizer_that_cannot_be_read(content):
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json"):
        FastTokenizer(SPEC, content)


def test_special_tokens_that_do_not_frame_are_refused():
    class Interleaving:
        def encode(self, text, add_special_tokens=True):
            return SimpleNamespace(ids=[3, FIRST, 3] if add_special_tokens else [3, 3])

    with pytest.raises(UnsupportedModel, match="special tokens inside a text"):
        template_of(Interleaving())


@pytest.mark.parametrize(
    ("texts", "wrong"),
    [
        ([[0, 5], [1]], []),
        ([[6], [1], [2, 6, 7]], [0, 2]),
        ([[1], [-1]], [1]),
        ([[], [0, 2**31 - 1]], [1]),
        ([[3], [], [9], []], [2]),
        ([], []),
    ],
)
def test_rows_with_ids_out_of_the_vocabulary(texts, wrong):
    actual = out_of_vocabulary(TokenBatch.from_lists(texts), 6)
    assert sorted(actual) == wrong
    assert all("must be in [0, 6)" in error.message for error in actual.values())
