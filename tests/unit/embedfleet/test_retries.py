"""When the client sends a request again."""

from __future__ import annotations

import pytest

from embedfleet.retries import Attempts


@pytest.mark.parametrize("refusals", [0, 9])
def test_a_lost_connection_is_tried_four_more_times_whatever_came_before(refusals):
    attempts = Attempts(deadline=1_000.0)
    for _ in range(refusals):
        assert attempts.pause_after_answer(429, {"retry-after": "1"}, True, 0.0) == 1.0
    pauses = [attempts.pause_after_lost_connection(0.0) for _ in range(5)]
    assert all(pause is not None and pause <= 5.0 for pause in pauses[:4])
    assert pauses[4] is None
