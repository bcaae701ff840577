"""A call's answer is the sum of its rows' answers."""

import numpy as np

from deployments.core.batch import TokenBatch
from deployments.core.batching.pending_call import PendingCall
from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane


def job_of(texts: int) -> PendingCall:
    return PendingCall(
        TokenBatch.from_lists([[1, 2]] * texts), Lane.ONLINE, dimension=2, arrived=10.0
    )


def test_answers_once_every_row_is_settled():
    call = job_of(2)
    call.start(11.5)
    call.settle(1, np.float32([3, 4]))
    call.finish_if_settled(12.0)
    assert not call.gone
    call.settle(0, np.float32([1, 2]))
    call.finish_if_settled(13.0)
    encoded = call.future.result(0)
    assert encoded.vectors.tolist() == [[1, 2], [3, 4]]
    assert encoded.queued_s == 1.5
    assert not encoded.errors


def test_an_error_stays_with_its_row():
    call = job_of(3)
    culprit = EmbedfleetError("this one")
    for row, outcome in enumerate([np.float32([1, 1]), culprit, np.float32([2, 2])]):
        call.settle(row, outcome)
    call.finish_if_settled(12.0)
    encoded = call.future.result(0)
    assert encoded.errors == {1: culprit}
    assert encoded.vectors[[0, 2]].tolist() == [[1, 1], [2, 2]]
    assert encoded.slice(1, 3).errors == {0: culprit}
    assert not encoded.slice(2, 3).errors


def test_a_cancelled_call_takes_no_answer():
    call = job_of(1)
    call.future.cancel()
    assert call.gone
    call.settle(0, np.float32([1, 1]))
    call.finish_if_settled(12.0)
    call.fail(EmbedfleetError("too late"))
    assert call.future.cancelled()
