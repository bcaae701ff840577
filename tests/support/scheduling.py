"""Calls for the tests of the pass scheduler."""

from __future__ import annotations

from deployments.core.batch import TokenBatch
from deployments.core.batching.pass_scheduler import PassScheduler
from deployments.core.batching.pending_call import PendingCall
from deployments.core.lane import Lane

BUDGET = 100
NOW = 1_000.0
LATER = NOW + 60


def call(*lengths: int) -> PendingCall:
    return PendingCall(TokenBatch.from_lists([[7] * n for n in lengths]), Lane.ONLINE, 4, NOW)


def put(turns: PassScheduler, *lengths: int, lane: Lane = Lane.ONLINE) -> PendingCall:
    queued = call(*lengths)
    turns.lanes.put(queued, lengths, lane, NOW, LATER)
    return queued
