"""How a replica runs its forward passes: the threads it has, how passes share them, and their sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ray
import torch

from deployments.config.schema import Limits, ModelConfig
from deployments.core.batching.lanes import BatchLimits
from deployments.core.engine.calibration import Calibration
from deployments.core.engine.cpu.cores import usable_cores
from deployments.core.engine.cpu.priority import can_give_way
from deployments.core.engine.device import choose_device
from deployments.core.engine.engine import TorchEngine

_THREADS = torch.get_num_threads()  # as Ray has set it, before an engine changes it


@dataclass(frozen=True)
class ThreadPlan:
    """How a replica's ``threads`` are split: ``streams`` passes at once, of ``each`` threads.

    With ``preempt``, offline texts have as many threads again, at a lower priority: they get what
    online texts leave of the cores.
    """

    threads: int
    streams: int
    preempt: bool = False

    @property
    def each(self) -> int:
        """The number of threads of one pass."""
        return max(1, self.threads // self.streams)


def plan_threads(config: ModelConfig) -> ThreadPlan:
    """Returns how the config's threads are split on this machine.

    ``auto`` leaves one core to what serves requests, unless offline passes can be preempted.
    """
    threads = cores() if config.threads == "auto" else config.threads or _THREADS
    on_cpu = choose_device(config.device_to_use).type == "cpu"
    # only streams of one thread can be preempted: a pass of several threads needs all of them at once
    if on_cpu and config.streams is None and _may_preempt(threads):
        return ThreadPlan(threads, threads, preempt=True)
    if config.threads == "auto":
        threads = max(1, threads - 1)
    if not on_cpu:
        return ThreadPlan(threads, config.streams or 1)
    return ThreadPlan(threads, min(threads, config.streams or threads))


def _may_preempt(threads: int) -> bool:
    """Whether twice the threads do no harm, since the kernel gives the cores to the urgent ones.

    It does so only if all cores are in use. With fewer threads than cores, offline passes would take
    the cores of others on the node; under a CPU quota, all threads would be stopped together.
    """
    return threads >= usable_cores() and can_give_way()


def cores() -> int:
    """Returns the number of this machine's cores that Ray may use."""
    usable = usable_cores()
    if not ray.is_initialized():
        return usable
    node_id = ray.get_runtime_context().get_node_id()
    cpus = sum(n["Resources"].get("CPU", 0) for n in ray.nodes() if n["NodeID"] == node_id)
    return max(1, min(usable, int(cpus)))


# of the token budget, in passes that both lanes share: an online text waits for one of them and then
# for its own, which together take less than one full pass
_SHARED_PART = 0.4
# a pass of less than this part of the budget, or this time, is soon over; passes side by side cost more
_WORTH_PART = 0.4
_WORTH_S = 0.015


def lane_limits(
    engine: TorchEngine, limits: Limits, pace: Calibration, split: ThreadPlan
) -> BatchLimits:
    """Returns how this replica forms its micro-batches."""
    return BatchLimits(
        token_budget=pace.token_budget,
        shared_budget=shared_budget(pace.token_budget, engine.rounded),
        offline_patience_s=limits.offline_patience_s,
        pads=engine.pads,
        streams=split.streams,
        worth_a_pass=worth_a_pass(pace.token_budget, pace.tokens_per_s / split.streams),
        preempt=split.preempt,
    )


def shared_budget(budget: int, rounded: Callable[[int], int]) -> int:
    """Returns the budget of passes that both lanes share, rounded up to what such a pass computes anyway
    if that is at most half of the whole budget.
    """
    part = int(_SHARED_PART * budget)
    computed = rounded(part)
    return computed if 2 * computed <= budget else part


def worth_a_pass(budget: int, tokens_per_s: float) -> int:
    """Returns how many tokens are worth a pass beside a running one; fewer wait until that one ends."""
    return min(int(_WORTH_PART * budget), int(_WORTH_S * tokens_per_s))
