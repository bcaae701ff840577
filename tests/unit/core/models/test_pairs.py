"""Pairs of texts in one sequence, cut as the `tokenizers` library cuts them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from deployments.core.errors import ContextLengthExceeded, UnsupportedModel
from deployments.core.models.pairs import PairFrames, pair_template_of
from deployments.core.models.reading import Contents
from deployments.core.models.spec import Kind, ModelSpec, PairTokens, Side, Truncation

LIMIT = 16
BERT = PairTokens((1,), (2,), (2,), second_type=1)
ROBERTA = PairTokens((1,), (2, 2), (2,))
LETTERS = WordLevel({"a": 7, "b": 8, "[UNK]": 0}, "[UNK]")
COUNTS = st.integers(0, 40)


def frames(tokens=BERT, side=Side.RIGHT):
    spec = ModelSpec(
        "own", "own", "0", "bert", None, 1, LIMIT, kind=Kind.RERANKER, truncation_side=side
    )
    return PairFrames(spec, tokens)


def ids(count, start=100):
    return np.arange(start, start + count, dtype=np.int32)


def contents(*counts):
    return Contents([ids(count, 1_000 * row) for row, count in enumerate(counts, 1)])


def library(pair, side=Side.RIGHT):
    """A tokenizer of words that are numbers."""
    words = {str(n): n for n in range(2_000)} | {"[UNK]": 2_000}
    tokenizer = tokenizers.Tokenizer(WordLevel(words, "[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing("1 $A 2", pair, [("1", 1), ("2", 2)])
    return tokenizer


TEMPLATES = {"1 $A 2 $B:1 2:1": BERT, "1 $A 2 2 $B 2": ROBERTA}


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_template_of_pairs_is_read(template):
    tokenizer = library(template)
    tokenizer.model = LETTERS
    actual = pair_template_of(tokenizer)
    expected = TEMPLATES[template]
    assert (actual.first, actual.between, actual.last) == (
        expected.first,
        expected.between,
        expected.last,
    )


def test_a_template_with_the_second_text_first_is_refused():
    tokenizer = library("1 $B 2 $A")
    tokenizer.model = LETTERS
    with pytest.raises(UnsupportedModel):
        pair_template_of(tokenizer)


@given(COUNTS, COUNTS, st.sampled_from(sorted(TEMPLATES)), st.sampled_from(Side))
def test_longest_first_cuts_as_the_library(first, second, template, side):
    tokenizer = library(template)
    tokenizer.enable_truncation(LIMIT, strategy="longest_first", direction=side.value)
    pair = (ids(first), ids(second, 1_000))
    expected = tokenizer.encode(*(" ".join(map(str, text)) for text in pair))
    query, documents = Contents([pair[0]]), Contents([pair[1]])
    actual = frames(TEMPLATES[template], side).framed(query, documents, Truncation.LONGEST_FIRST)
    assert actual.batch.text(0).tolist() == expected.ids
    if template.startswith("1 $A 2 $B:1"):
        assert actual.batch.prompts[0, 1] == expected.type_ids.count(0)


@given(st.integers(0, 10), COUNTS, st.sampled_from(Side))
def test_only_second_cuts_as_the_library(first, second, side):
    tokenizer = library("1 $A 2 $B:1 2:1")
    tokenizer.enable_truncation(LIMIT, strategy="only_second", direction=side.value)
    pair = (ids(first), ids(second, 1_000))
    expected = tokenizer.encode(*(" ".join(map(str, text)) for text in pair))
    query, documents = Contents([pair[0]]), Contents([pair[1]])
    actual = frames(side=side).framed(query, documents, Truncation.ONLY_SECOND)
    assert actual.batch.text(0).tolist() == expected.ids


def test_only_pairs_over_the_limit_count_as_cut():
    actual = frames().framed(contents(3), contents(10, 11, 12), Truncation.LONGEST_FIRST)
    assert actual.truncated == (1, 2)
    assert actual.batch.lengths.tolist() == [LIMIT] * 3


@pytest.mark.parametrize(
    ("query", "documents", "truncation", "param"),
    [
        (3, (10, 11), None, "documents"),
        (9, (9,), None, "query"),
        (13, (1,), Truncation.ONLY_SECOND, "query"),
    ],
)
def test_a_pair_over_the_limit_is_refused(query, documents, truncation, param):
    with pytest.raises(ContextLengthExceeded) as refused:
        frames().framed(contents(query), contents(*documents), truncation)
    assert refused.value.param == param


def test_a_text_that_was_not_read_to_its_end_is_over_the_limit():
    partial = Contents([ids(2)], frozenset({0}))
    with pytest.raises(ContextLengthExceeded):
        frames().framed(contents(2), partial, None)


@given(st.integers(1, 6), st.lists(st.integers(1, 90), min_size=1, max_size=4))
def test_chunks_hold_all_of_a_document_in_order(query, counts):
    actual = frames().chunked(contents(query), contents(*counts))
    assert actual.batch.lengths.max() <= LIMIT
    chunks_of = Counter(actual.owners)
    for row, count in enumerate(counts):
        chunks = [
            actual.batch.text(place)[query + 2 : -1].tolist()
            for place, owner in enumerate(actual.owners)
            if owner == row
        ]
        assert len(chunks) == chunks_of[row]
        assert (
            list(dict.fromkeys(n for chunk in chunks for n in chunk))
            == ids(count, 1_000 * (row + 1)).tolist()
        )
        assert all(one[-1] >= other[0] for one, other in pairwise(chunks)), "chunks overlap"
        assert all(len(chunk) == LIMIT - query - 3 for chunk in chunks[:-1])


def test_a_query_that_leaves_chunks_no_room_is_refused():
    with pytest.raises(ContextLengthExceeded) as refused:
        frames().chunked(contents(8), contents(30))
    assert refused.value.param == "query"
