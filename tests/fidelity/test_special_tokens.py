"""What stands first and last, whatever the text, the limit and the version of transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from deployments.core.errors import ContextLengthExceeded, InvalidRequest
from deployments.core.models.description import describe
from deployments.core.models.prompts import render
from deployments.core.models.spec import Role
from deployments.core.models.tokenizer import FastTokenizer
from deployments.core.request import TokenInput
from tests.fidelity.cards import CARDS
from tests.fidelity.conftest import MAX_TOKENS

MISTRALS = ("e5-mistral-7b-instruct", "linq-embed-mistral")
NEWLINE = 13  # <0x0A>, in the real vocabulary too
FRAMES = {
    "e5-small": (2, 3),
    "e5-small-v2": (2, 3),
    "multilingual-e5-large-instruct": (0, 2),
    "e5-mistral-7b-instruct": (1, 2),
    "linq-embed-mistral": (1, 2),
}
ANY_TEXT = st.text(max_size=200)
LONG_TEXT = st.lists(st.text(min_size=1), min_size=1, max_size=20).map(" ".join)


@pytest.fixture(scope="session")
def tokenizers(tiny):
    return {name: describe(t.spec, t.folder).fast_tokenizer() for name, t in tiny.items()}


@pytest.fixture(scope="session")
def unlimited(tiny):
    return {
        name: describe(replace(t.spec, max_tokens=10**9), t.folder).fast_tokenizer()
        for name, t in tiny.items()
    }


def ids_of(tokenizer: FastTokenizer, text: str, truncate: bool = True) -> list[int]:
    return tokenizer.tokenize([text], truncate).batch.ids.tolist()


@pytest.mark.parametrize("name", MISTRALS)
def test_transformers_5_still_loses_the_end_token(tiny, name):
    """The tiny files have the quirk of the real ones. When this fails, it was mended upstream."""
    assert AutoTokenizer.from_pretrained(tiny[name].folder)("a")["input_ids"][0] == 1
    assert AutoTokenizer.from_pretrained(tiny[name].folder)("a")["input_ids"][-1] != 2


@pytest.mark.parametrize("text", ["", "a", "one\ntwo\n\nthree\n", "\n", "word " * 200])
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("name", MISTRALS)
def test_mistral_has_both_tokens_once(tiny, tokenizers, name, role, text):
    (rendered,) = render(tiny[name].spec, [text], role)
    ids = ids_of(tokenizers[name], rendered)
    assert (ids[0], ids[-1]) == (1, 2)
    assert (ids.count(1), ids.count(2)) == (1, 1)
    assert len(ids) <= MAX_TOKENS


@pytest.mark.parametrize("name", MISTRALS)
def test_newlines_reach_the_model(tiny, tokenizers, name):
    (rendered,) = render(tiny[name].spec, ["one\ntwo"], Role.QUERY)
    assert ids_of(tokenizers[name], rendered).count(NEWLINE) == 2  # the template's and the text's


@pytest.mark.parametrize("name", CARDS)
def test_cut_texts_fill_the_limit_exactly(tokenizers, name):
    tokenized = tokenizers[name].tokenize(["word " * 200, "a", "word " * 300], truncate=True)
    assert tokenized.truncated == (0, 2)
    assert tokenized.batch.lengths.tolist()[::2] == [MAX_TOKENS, MAX_TOKENS]


@pytest.mark.parametrize("name", CARDS)
@given(text=ANY_TEXT | LONG_TEXT)
def test_any_text_stands_in_its_frame_and_is_cut_to_a_prefix(tokenizers, unlimited, name, text):
    whole, cut = ids_of(unlimited[name], text), ids_of(tokenizers[name], text)
    first, last = FRAMES[name]
    assert (whole[0], whole[-1]) == (cut[0], cut[-1]) == (first, last)
    assert cut == (whole if len(whole) <= MAX_TOKENS else [*whole[: MAX_TOKENS - 1], last])


@pytest.mark.parametrize("name", CARDS)
@given(text=LONG_TEXT)
def test_without_truncation_a_text_is_whole_or_refused(tokenizers, unlimited, name, text):
    whole = ids_of(unlimited[name], text)
    if len(whole) <= MAX_TOKENS:
        assert ids_of(tokenizers[name], text, truncate=False) == whole
    else:
        with pytest.raises(ContextLengthExceeded, match=f"{len(whole)} tokens"):
            tokenizers[name].tokenize([text])


@pytest.mark.parametrize("name", CARDS)
@given(texts=st.lists(ANY_TEXT, min_size=2, max_size=8))
def test_texts_do_not_change_each_others_ids(tokenizers, name, texts):
    batch = tokenizers[name].tokenize(texts, truncate=True).batch
    alone = [ids_of(tokenizers[name], text) for text in texts]
    assert [batch.text(row).tolist() for row in range(len(texts))] == alone


@pytest.mark.parametrize("name", CARDS)
@given(text=ANY_TEXT)
def test_own_ids_are_taken_as_they_are(tiny, tokenizers, name, text):
    ids = ids_of(tokenizers[name], text)
    accepted = tokenizers[name].accept_ids(TokenInput(tiny[name].spec.repo, (tuple(ids),)))
    assert accepted.batch.ids.tolist() == ids


@given(before=ANY_TEXT, half=st.characters(categories=["Cs"]))
def test_half_a_surrogate_pair_is_refused(tokenizers, before, half):
    with pytest.raises(InvalidRequest, match="text 1 is not valid Unicode"):
        tokenizers["e5-small"].tokenize(["fine", before + half])
