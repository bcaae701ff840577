"""How many processor threads a replica has on its machine, and how its forward passes share them.

How large a replica's micro-batches are, by what it has measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import ray
import torch

from deployments.config.schema import Limits, ModelConfig
from deployments.core.batching.lanes import LaneLimits
from deployments.core.engine.calibration import Calibration
from deployments.core.engine.cpu.priority import can_give_way
from deployments.core.engine.device import choose_device
from deployments.core.engine.engine import TorchEngine

_THREADS = torch.get_num_threads()  # as Ray has set it; an engine changes it


@dataclass(frozen=True)
class ThreadPlan:
    """How a replica's ``threads`` are split: ``streams`` passes at once, ``each`` with so many.

    With ``preempt`` offline texts have as many more, which get what online texts leave of the cores.
    """

    threads: int
    streams: int
    preempt: bool = False

    @property
    def each(self) -> int:
        """The threads of one pass."""
        return max(1, self.threads // self.streams)


def plan_threads(config: ModelConfig) -> ThreadPlan:
    """Returns the threads that the config asks for on this machine.

    With ``auto`` one core is left to what serves requests, where offline passes do not leave it.
    """
    threads = cores() if config.threads == "auto" else config.threads or _THREADS
    on_cpu = choose_device(config.device_to_use).type == "cpu"
    # a pass of several threads needs all of them at once
    if on_cpu and config.streams is None and _may_preempt(threads):
        return ThreadPlan(threads, threads, preempt=True)
    if config.threads == "auto":
        threads = max(1, threads - 1)
    if not on_cpu:
        return ThreadPlan(threads, config.streams or 1)
    return ThreadPlan(threads, min(threads, config.streams or threads))


def _may_preempt(threads: int) -> bool:
    """Whether twice the threads do no harm: the kernel has to choose whom it gives a core.

    It has nothing to choose where cores are idle: under a quota all would be stopped together, and
    others on the node would lose what they asked for.
    """
    return threads >= _usable() and can_give_way()


def _usable() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores() -> int:
    """Returns how many cores of this machine Ray counts as its own."""
    usable = _usable()
    if not ray.is_initialized():
        return usable
    here = ray.get_runtime_context().get_node_id()
    counted = (n["Resources"].get("CPU", 0) for n in ray.nodes() if n["NodeID"] == here)
    return max(1, min(usable, int(sum(counted))))


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
