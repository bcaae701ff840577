"""Flat buffers of token ids, and answers by row."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import EmbedfleetError
from deployments.core.models.spec import Role

DOCUMENT = list(Role).index(Role.DOCUMENT)
TEXTS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=6), min_size=1, max_size=8)


def lists_of(batch):
    return [batch.text(row).tolist() for row in range(len(batch))]


@given(TEXTS)
def test_texts_come_out_as_they_went_in(texts):
    batch = TokenBatch.from_lists(texts)
    assert (batch.ids.dtype, batch.lengths.dtype) == (np.int32, np.int32)
    assert lists_of(batch) == texts
    assert len(batch) == len(texts)
    assert batch.tokens == sum(map(len, texts))
    assert batch.offsets.tolist() == [sum(map(len, texts[:n])) for n in range(len(texts) + 1)]


@given(TEXTS)
def test_arrays_and_lists_make_the_same_batch(texts):
    arrays = [np.array(text, np.int32) for text in texts]
    assert lists_of(TokenBatch.from_arrays(arrays)) == texts


@given(TEXTS, st.data())
def test_select_keeps_the_order_given(texts, data):
    rows = data.draw(st.lists(st.sampled_from(range(len(texts))), min_size=1))
    assert lists_of(TokenBatch.from_lists(texts).select(rows)) == [texts[row] for row in rows]


@given(TEXTS, st.data())
def test_slice_is_a_view_of_consecutive_texts(texts, data):
    start = data.draw(st.integers(0, len(texts)))
    stop = data.draw(st.integers(start, len(texts)))
    batch = TokenBatch.from_lists(texts)
    part = batch.slice(start, stop)
    assert lists_of(part) == texts[start:stop]
    assert not part.tokens or np.shares_memory(part.ids, batch.ids)


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_concatenate_joins_in_order(parts):
    whole = TokenBatch.concatenate([TokenBatch.from_lists(part) for part in parts])
    assert lists_of(whole) == [text for part in parts for text in part]


@given(TEXTS, st.integers(0, 9))
def test_padding_stands_on_the_right(texts, pad):
    ids, mask = TokenBatch.from_lists(texts).padded(pad)
    longest = max(map(len, texts))
    assert ids.shape == mask.shape == (len(texts), longest)
    assert ids.tolist() == [text + [pad] * (longest - len(text)) for text in texts]
    assert mask.tolist() == [[n < len(text) for n in range(longest)] for text in texts]
    assert (ids.dtype, mask.dtype) == (np.int64, np.bool_)


def encoded():
    errors = {1: EmbedfleetError("one"), 3: EmbedfleetError("three")}
    return Encoded(np.arange(10, dtype=np.float32).reshape(5, 2), 0.5, 1.5, errors)


@pytest.mark.parametrize(
    ("start", "stop", "errors"),
    [(0, 5, [1, 3]), (0, 1, []), (1, 2, [0]), (1, 4, [0, 2]), (2, 5, [1]), (4, 5, [])],
)
def test_an_answer_is_cut_with_its_errors(start, stop, errors):
    part = encoded().slice(start, stop)
    assert part.vectors.tolist() == [[2 * n, 2 * n + 1] for n in range(start, stop)]
    assert sorted(part.errors) == errors
    for row, error in part.errors.items():
        assert error is not None
        assert str(error) == {1: "one", 3: "three"}[row + start]
    assert (part.queued_s, part.computed_s) == (0.5, 1.5)


def test_batches_and_answers_cross_process_boundaries():
    batch = pickle.loads(pickle.dumps(TokenBatch.from_lists([[1, 2], [3]])))
    assert lists_of(batch) == [[1, 2], [3]]
    answer = pickle.loads(pickle.dumps(encoded()))
    np.testing.assert_array_equal(answer.vectors, encoded().vectors)
    assert str(answer.errors[3]) == "three"


def prompted(texts, first=0):
    """A batch whose prompts tell the texts apart."""
    prompts = np.array([[row % 2, first + row] for row in range(len(texts))], np.int32)
    return replace(TokenBatch.from_lists(texts), prompts=prompts)


@given(TEXTS, st.data())
def test_prompts_go_where_their_texts_go(texts, data):
    batch = prompted(texts)
    rows = data.draw(st.lists(st.sampled_from(range(len(texts))), min_size=1))
    start = data.draw(st.integers(0, len(texts)))
    stop = data.draw(st.integers(start, len(texts)))
    assert batch.select(rows).prompts.tolist() == [[row % 2, row] for row in rows]
    assert batch.slice(start, stop).prompts[:, 1].tolist() == list(range(start, stop))
    joined = TokenBatch.concatenate([batch, prompted(texts, first=100)])
    assert joined.prompts[:, 1].tolist() == [*range(len(texts)), *range(100, 100 + len(texts))]


@pytest.mark.parametrize(
    "join",
    [
        TokenBatch.concatenate,
        lambda batches: TokenBatch.gather([(batch, 0) for batch in batches]),
    ],
)
def test_a_text_without_a_prompt_is_a_document_beside_others(join):
    bare = TokenBatch.from_lists([[1, 2]])
    assert join([bare, bare]).prompts is None
    assert join([bare, prompted([[3]], first=5)]).prompts.tolist() == [[DOCUMENT, 0], [0, 5]]
