"""The tiny models are no yes-men: each slip in a recipe moves the vectors out of tolerance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deployments.core.models.prompts import render
from deployments.core.models.spec import Pooling, Prompts, Role, SpecialTokens
from tests.fidelity.cards import CARDS
from tests.fidelity.conftest import MAX_TOKENS
from tests.fidelity.pipeline import encode
from tests.support.tolerance import WRONG, cosines

BERT, XLM_R, MISTRAL = "e5-small-v2", "multilingual-e5-large-instruct", "e5-mistral-7b-instruct"
EVERY_TEXT = {
    "mistral, no end token": (MISTRAL, {"special_tokens": SpecialTokens((1,), ())}),
    "mistral, no special tokens": (MISTRAL, {"special_tokens": SpecialTokens((), ())}),
    "mistral, mean": (MISTRAL, {"pooling": Pooling.MEAN}),
    "mistral, first token": (MISTRAL, {"pooling": Pooling.CLS}),
    "mistral, space for newline": (
        MISTRAL,
        {"prompts": Prompts(query_instruction="Instruct: {instruction} Query: ")},
    ),
    "bert, cls": (BERT, {"pooling": Pooling.CLS}),
    "bert, last token": (BERT, {"pooling": Pooling.LAST_TOKEN}),
    "xlm-r, cls": (XLM_R, {"pooling": Pooling.CLS}),
}
SOME_TEXT = {
    "mistral, no start token": (MISTRAL, {"special_tokens": SpecialTokens((), (2,))}),
    "mistral, end token twice": (MISTRAL, {"special_tokens": SpecialTokens((1,), (2, 2))}),
    "mistral, cut one token early": (MISTRAL, {"max_tokens": MAX_TOKENS - 1}),
    "bert, no special tokens": (BERT, {"special_tokens": SpecialTokens((), ())}),
    "bert, no prompts": (BERT, {"prompts": Prompts()}),
    "bert, prompts the wrong way round": (BERT, {"prompts": Prompts("passage: ", "query: ")}),
    "bert, prompt without its space": (BERT, {"prompts": Prompts("query", "passage")}),
    "bert, cut one token early": (BERT, {"max_tokens": MAX_TOKENS - 1}),
    "xlm-r, no end token": (XLM_R, {"special_tokens": SpecialTokens((0,), ())}),
    "xlm-r, lower case": (XLM_R, {"lowercase": True}),
    "xlm-r, no instruction": (XLM_R, {"prompts": Prompts()}),
}


def cosines_of_wrong(tiny, texts, name, changes):
    right, folder = tiny[name].spec, tiny[name].folder
    card = CARDS[name](folder, render(right, texts, Role.QUERY), MAX_TOKENS, "right")
    wrong = replace(right, **changes)
    return cosines(encode(wrong, folder, texts, Role.QUERY), card)


@pytest.mark.parametrize("slip", EVERY_TEXT)
def test_a_slip_that_shows_in_every_text(tiny, texts, slip):
    assert cosines_of_wrong(tiny, texts, *EVERY_TEXT[slip]).max() <= WRONG


@pytest.mark.parametrize("slip", SOME_TEXT)
def test_a_slip_that_shows_in_some_text(tiny, texts, slip):
    assert cosines_of_wrong(tiny, texts, *SOME_TEXT[slip]).min() <= WRONG


@pytest.mark.parametrize("name", CARDS)
def test_different_texts_lie_far_apart(tiny, texts, name):
    distinct = [text for text in texts if text.strip()]
    vectors = encode(tiny[name].spec, tiny[name].folder, distinct)
    between = (vectors @ vectors.T)[~np.eye(len(distinct), dtype=bool)]
    assert between.max() <= WRONG
    assert np.median(between) <= 0.9
