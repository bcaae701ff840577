"""Sparse vectors hold what dense ones do, whole, cut into rows, and put together again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from deployments.core.batch import Encoded, concatenated, placed
from deployments.core.errors import TextFailed
from deployments.core.sparse import SparseVectors

weights = st.sampled_from([0.0, 0.0, 0.0, 0.5, 2.0, 7.25])
shapes = st.tuples(st.integers(0, 6), st.integers(1, 9))
dense_vectors = arrays.arrays(np.float32, shapes, elements=weights)


@given(dense_vectors)
def test_nothing_is_lost(dense):
    sparse = SparseVectors.from_dense(dense)
    assert (sparse.shape, len(sparse)) == (dense.shape, len(dense))
    assert sparse.size == 2 * np.count_nonzero(dense)
    np.testing.assert_array_equal(sparse.dense(), dense)


@given(dense_vectors, st.data())
def test_rows_are_the_rows_of_dense_vectors(dense, data):
    start = data.draw(st.integers(0, len(dense)))
    stop = data.draw(st.integers(0, len(dense)))
    sparse = SparseVectors.from_dense(dense)
    np.testing.assert_array_equal(sparse[start:stop].dense(), dense[start:stop])
    for row, alone in enumerate(sparse.rows()):
        np.testing.assert_array_equal(alone.dense(), dense[row : row + 1])


@given(dense_vectors, st.data())
def test_parts_are_put_together_in_any_order(dense, data):
    order = data.draw(st.permutations(range(len(dense))))
    cut = data.draw(st.integers(0, len(dense)))
    sparse = SparseVectors.from_dense(dense)
    halves = [sparse[:cut], sparse[cut:]]
    np.testing.assert_array_equal(concatenated(halves).dense(), dense)
    parts = [(order[:cut], halves[0]), (order[cut:], halves[1])]
    whole = placed(parts, len(dense) + 1) if len(dense) else placed([([], sparse)], 1)
    np.testing.assert_array_equal(whole.dense()[order], dense)
    assert whole.lengths[-1] == 0


@given(dense_vectors, st.data())
def test_rows_are_taken_in_any_order_and_number(dense, data):
    rows = data.draw(st.lists(st.integers(0, len(dense) - 1))) if len(dense) else []
    taken = SparseVectors.from_dense(dense).take(rows)
    np.testing.assert_array_equal(taken.dense(), dense[rows])


def test_what_is_no_number_is_an_entry():
    sparse = SparseVectors.from_dense(np.float32([[0, np.nan, np.inf]]))
    assert sparse.indices.tolist() == [1, 2]


@pytest.mark.parametrize("is_sparse", [True, False])
def test_texts_that_all_failed_have_no_place_among_vectors(is_sparse):
    dense = np.float32([[1, 0], [0, 3]])
    vectors = SparseVectors.from_dense(dense) if is_sparse else dense
    whole = placed([([0], np.zeros((1, 0), np.float32)), ([1, 2], vectors)], 3)
    written_out = whole.dense() if is_sparse else whole
    np.testing.assert_array_equal(written_out, [[0, 0], [1, 0], [0, 3]])


def test_a_part_of_an_answer_keeps_its_errors():
    errors = {1: TextFailed("not finite")}
    sparse = SparseVectors.from_dense(np.float32([[1, 0], [0, 0], [0, 3]]))
    answer = Encoded(sparse, 0, 0, errors).slice(1, 3)
    assert set(answer.errors) == {0}
    np.testing.assert_array_equal(answer.vectors.dense(), [[0, 0], [0, 3]])
    among = answer.among([3, 0], 4, {1: TextFailed("refused")})
    assert set(among.errors) == {1, 3}
    np.testing.assert_array_equal(among.vectors.dense(), [[0, 3], [0, 0], [0, 0], [0, 0]])
