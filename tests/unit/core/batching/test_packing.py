"""Micro-batches under a token budget, and calls of bounded size."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.batching.packing import around_oldest, first_fit, pack, split_in_order

LENGTHS = st.lists(st.integers(1, 600), max_size=60)


def padded_tokens(lengths):
    """The price of a pass with padding."""
    return max(lengths, default=0) * len(lengths)


def test_without_padding_a_pass_costs_the_sum_of_its_tokens():
    assert pack([2, 9, 3, 8], 18, pads=False) == [[1, 3], [2, 0]]
    assert pack([2, 9, 3, 8], 20, pads=False) == [[1, 3, 2], [0]]
    assert pack([50, 1], 10, pads=False) == [[0], [1]]


@pytest.mark.parametrize(
    ("lengths", "budget", "batches"),
    [
        ([], 10, []),
        ([5], 10, [[0]]),
        ([50], 10, [[0]]),  # one text alone may be over
        ([50, 1], 10, [[0], [1]]),
        ([5, 5], 10, [[0, 1]]),
        ([5, 5], 9, [[0], [1]]),
        ([2, 9, 3, 8], 18, [[1, 3], [2, 0]]),
        ([1, 1, 1, 9], 18, [[3, 0], [1, 2]]),
    ],
)
def test_texts_of_like_length_share_a_pass(lengths, budget, batches):
    assert pack(lengths, budget) == batches


@given(LENGTHS, st.integers(1, 2_000))
def test_each_text_is_packed_once_and_within_budget(lengths, budget):
    batches = pack(lengths, budget)
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for rows in batches:
        assert rows
        assert padded_tokens([lengths[row] for row in rows]) <= budget or len(rows) == 1


@given(LENGTHS, st.integers(1, 2_000))
def test_the_longest_go_first(lengths, budget):
    order = [lengths[row] for rows in pack(lengths, budget) for row in rows]
    assert order == sorted(lengths, reverse=True)


@given(LENGTHS, st.integers(1, 2_000))
def test_no_two_neighbours_would_fit_into_one_pass(lengths, budget):
    batches = pack(lengths, budget)
    for one, other in itertools.pairwise(batches):
        assert padded_tokens([lengths[row] for row in [*one, other[0]]]) > budget


@pytest.mark.parametrize(
    ("lengths", "most_tokens", "most_texts", "cuts"),
    [
        ([], 10, 3, [(0, 0)]),
        ([4, 4, 4], 100, 10, [(0, 3)]),
        ([4, 4, 4], 8, 10, [(0, 2), (2, 3)]),
        ([4, 4, 4], 7, 10, [(0, 1), (1, 2), (2, 3)]),
        ([4, 4, 4], 100, 2, [(0, 2), (2, 3)]),
        ([99, 1, 99], 10, 9, [(0, 1), (1, 2), (2, 3)]),
        ([1, 1, 99], 10, 9, [(0, 2), (2, 3)]),
    ],
)
def test_calls_are_cut_in_order(lengths, most_tokens, most_texts, cuts):
    assert split_in_order(lengths, most_tokens, most_texts) == cuts


@given(
    st.lists(st.integers(1, 600), min_size=1, max_size=60), st.integers(1, 900), st.integers(1, 9)
)
def test_cuts_are_whole_and_within_both_bounds(lengths, most_tokens, most_texts):
    cuts = split_in_order(lengths, most_tokens, most_texts)
    assert [row for start, stop in cuts for row in range(start, stop)] == list(range(len(lengths)))
    for start, stop in cuts:
        assert 1 <= stop - start <= most_texts
        assert sum(lengths[start:stop]) <= most_tokens or stop - start == 1
    for (start, stop), (_, after) in itertools.pairwise(cuts):  # no cut without need
        assert sum(lengths[start : stop + 1]) > most_tokens or stop - start == most_texts
        assert stop < after


def test_no_texts_no_choice():
    assert around_oldest([], 10) == []
    assert first_fit([], [], 10, pads=True) == []
