"""How large a replica's micro-batches are, by what it has measured."""

from __future__ import annotations

from collections.abc import Callable

from deployments.config import Limits
from deployments.cores import ThreadPlan
from deployments.embedding.batching.lanes import LaneLimits
from deployments.embedding.engine.calibration import Calibration
from deployments.embedding.engine.engine import TorchEngine

# of the token budget is what both lanes share: an online text waits for one such pass and then for
# its own, together less than one full pass
_SHARED_PART = 0.4
# less than this part of the budget, or this time, is soon over; passes side by side cost more in all
_WORTH_PART = 0.4
_WORTH_S = 0.015


def lane_limits(
    engine: TorchEngine, limits: Limits, pace: Calibration, split: ThreadPlan
) -> LaneLimits:
    """Returns how this replica forms its micro-batches."""
    return LaneLimits(
        token_budget=pace.token_budget,
        shared_budget=shared_budget(pace.token_budget, engine.rounded),
        offline_patience_s=limits.offline_patience_s,
        pads=engine.pads,
        streams=split.streams,
        worth_a_pass=worth_a_pass(pace.token_budget, pace.tokens_per_s / split.streams),
        preempt=split.preempt,
    )


def shared_budget(budget: int, rounded: Callable[[int], int]) -> int:
    """Returns what both lanes share: filled up to what such a pass computes anyway, within half."""
    part = int(_SHARED_PART * budget)
    return full if 2 * (full := rounded(part)) <= budget else part


def worth_a_pass(budget: int, tokens_per_s: float) -> int:
    """Returns how many tokens are worth a pass beside another: fewer wait until that one ends."""
    return min(int(_WORTH_PART * budget), int(_WORTH_S * tokens_per_s))
