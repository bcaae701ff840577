"""How many processor threads a replica has on its machine, and how its forward passes share them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import ray
import torch

from deployments.config import ModelConfig
from deployments.embedding.device import choose_device

_THREADS = torch.get_num_threads()  # as Ray has set it; an engine changes it


@dataclass(frozen=True)
class Split:
    """How a replica's ``threads`` are split: ``streams`` passes at once, ``each`` with so many.

    With ``reserved`` one of the streams takes online texts only.
    """

    threads: int
    streams: int
    reserved: bool = False

    @property
    def each(self) -> int:
        """The threads of one pass."""
        return max(1, self.threads // self.streams)


def split_threads(config: ModelConfig) -> Split:
    """Returns the threads that the config asks for on this machine.

    With ``auto`` one core is left by corpus jobs to online requests and to what serves them.
    """
    if choose_device(config.device).type != "cpu":
        return Split(_threads(config), config.streams or 1)
    if config.threads == "auto" and config.streams is None:
        return Split(cores(), cores(), reserved=cores() > 1)
    threads = _threads(config)
    return Split(threads, min(threads, config.streams or threads))


def _threads(config: ModelConfig) -> int:
    return max(1, cores() - 1) if config.threads == "auto" else config.threads or _THREADS


def cores() -> int:
    """Returns how many cores of this machine Ray counts as its own."""
    usable = len(os.sched_getaffinity(0))
    if not ray.is_initialized():
        return usable
    here = ray.get_runtime_context().get_node_id()
    counted = (n["Resources"].get("CPU", 0) for n in ray.nodes() if n["NodeID"] == here)
    return max(1, min(usable, int(sum(counted))))
