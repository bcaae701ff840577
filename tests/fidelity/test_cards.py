"""Every catalog entry gives the vectors of its model card's recipe."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from deployments.core.models.catalog import CATALOG
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from deployments.core.models.spec import Role
from testing.models.files import LAST_TOKEN, Recipe
from testing.models.tiny import Shape, save_bert, save_mistral, save_xlm_roberta
from tests.fidelity.cards import CARDS, Card, get_detailed_instruct
from tests.fidelity.conftest import MAX_TOKENS
from tests.fidelity.pipeline import encode
from tests.support.hardware import needs_fbgemm
from tests.support.tolerance import FLOAT32, WORST, worst_cosine

Save = Callable[..., Path]

TASKS = {
    "multilingual-e5-large-instruct": (
        "Given a web search query, retrieve relevant passages that answer the query"
    ),
    "e5-mistral-7b-instruct": (
        "Given a web search query, retrieve relevant passages that answer the query"
    ),
    "linq-embed-mistral": "Given a question, retrieve Wikipedia passages that answer the question",
}
# dimension and limit, as the cards state them
STATED = {
    "e5-small": (384, 512),
    "e5-small-v2": (384, 512),
    "multilingual-e5-large-instruct": (1_024, 512),
    "e5-mistral-7b-instruct": (4_096, 4_096),
    "linq-embed-mistral": (4_096, 4_096),
}
# the cards' plain tokenizer pads on the right; with BERT's absolute positions it has to
SIDES = [
    *((name, "right") for name in CARDS),
    *((name, "left") for name in TASKS),
]

DTYPES = ["float32", "bfloat16", pytest.param("float16", marks=needs_fbgemm)]


def as_on_the_card(name: str, role: Role, text: str) -> str:
    if name in TASKS:
        return get_detailed_instruct(TASKS[name], text) if role is Role.QUERY else text
    return f"query: {text}" if role is Role.QUERY else f"passage: {text}"


@pytest.fixture(scope="module")
def card(tiny, texts):
    """The card's vectors, computed once for both precisions."""

    @cache
    def of(name: str, side: str, role: Role) -> np.ndarray:
        written = [as_on_the_card(name, role, text) for text in texts]
        return CARDS[name](tiny[name].folder, written, MAX_TOKENS, side)

    return of


@pytest.fixture(scope="module")
def ours(tiny, texts):
    """Our vectors, computed once for both sides."""
    return cache(
        lambda name, role, dtype: encode(
            tiny[name].spec, tiny[name].folder, texts, role, dtype=dtype
        )
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize(("name", "side"), SIDES)
def test_the_vectors_are_the_cards(card, ours, name, side, role, dtype):
    actual = ours(name, role, dtype)
    assert worst_cosine(actual, card(name, side, role)) >= WORST[dtype]
    assert np.linalg.norm(actual, axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_an_instruction_of_the_callers_own(tiny, texts, name):
    task = "Find {braces}, \nand a second line"
    written = [get_detailed_instruct(task, text) for text in texts]
    card = CARDS[name](tiny[name].folder, written, MAX_TOKENS, "right")
    actual = encode(tiny[name].spec, tiny[name].folder, texts, Role.QUERY, task)
    assert worst_cosine(actual, card) >= FLOAT32


@pytest.mark.parametrize("name", CARDS)
def test_the_texts_reach_from_one_token_to_beyond_the_limit(tiny, texts, name):
    spec, folder = tiny[name].spec, tiny[name].folder
    tokenized = describe(spec, folder).fast_tokenizer().tokenize(texts, truncate=True)
    assert {2, 3} <= set(tokenized.batch.lengths.tolist())  # nothing, and one, between the frame
    assert len(tokenized.truncated) >= 3


@pytest.mark.parametrize("name", STATED)
def test_dimension_and_limit_are_the_cards(name):
    assert (CATALOG[name].dimension, CATALOG[name].max_tokens) == STATED[name]


@pytest.fixture(scope="module")
def of_full_width(tmp_path_factory):
    """A folder of one wide layer and its card's vectors, made once for entries that have both alike."""

    @cache
    def of(save: Save, card: Card, dimension: int, limit: int, texts: tuple[str, ...]):
        folder = tmp_path_factory.mktemp("wide")
        recipe = LAST_TOKEN if save is save_mistral else Recipe(max_seq_length=limit)
        save(folder, recipe, Shape(hidden=dimension, layers=1))
        return folder, card(folder, texts, limit, "right")

    return of


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("e5-small", save_bert),
        ("e5-small-v2", save_bert),
        ("multilingual-e5-large-instruct", save_xlm_roberta),
        ("e5-mistral-7b-instruct", save_mistral),
        ("linq-embed-mistral", save_mistral),
    ],
)
def test_the_entry_as_it_stands_with_its_own_dimension_and_limit(of_full_width, name, save):
    dimension, limit = STATED[name]
    texts = ["a", "x y " * (limit // 8), "x y " * limit]
    written = tuple(as_on_the_card(name, Role.DOCUMENT, text) for text in texts)
    folder, card = of_full_width(save, CARDS[name], dimension, limit, written)
    files = find_model(name, str(folder))
    actual = encode(files.spec, files.folder, texts)
    assert describe(files.spec, files.folder).fast_tokenizer().tokenize(
        texts, truncate=True
    ).truncated == (2,)
    assert actual.shape == (3, dimension)
    assert worst_cosine(actual, card) >= FLOAT32
