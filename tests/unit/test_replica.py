"""What a replica makes of its config and what it has measured."""

from __future__ import annotations

import pytest

from deployments.embedding.cpu_linear import rounded_rows
from deployments.replica import shared_budget


@pytest.mark.parametrize(
    ("budget", "rounded", "shared"),
    [
        (256, rounded_rows, 112),  # 0.4 of it are 102, and 112 are computed
        (1_024, rounded_rows, 448),
        (1_024, int, 409),
        (650, lambda _: 384, 260),  # a short pass of a GPU is filled up to much more
        (16, rounded_rows, 6),
    ],
)
def test_both_lanes_share_what_is_computed_anyway_within_half(budget, rounded, shared):
    assert shared_budget(budget, rounded) == shared
