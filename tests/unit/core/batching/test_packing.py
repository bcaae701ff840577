"""Calls of bounded size, and the edges of the choice of a micro-batch; see also test_lanes_properties."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.batching.packing import around_oldest, first_fit, split_in_order


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
