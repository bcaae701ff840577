"""Checks that a replica runs on the GPU that Ray assigned to it, and how much of it it may use.

Pure: what Ray has assigned and what CUDA shows are passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_MIB = 2**20
_CONTEXT = 512 * _MIB  # estimated, for cards from Ampere on


@dataclass(frozen=True)
class VisibleDevices:
    """The GPUs that a replica's process sees.

    ``visible`` is CUDA_VISIBLE_DEVICES (None if unset), ``devices`` the number of CUDA devices that
    torch can use, ``listed`` the number that the driver lists.
    """

    visible: str | None
    devices: int
    listed: int = 0

    @property
    def only_listed(self) -> bool:
        """Whether CUDA failed to start; it never starts in this process then, which keeps the failure."""
        return self.listed > 0 and not self.devices


@dataclass(frozen=True)
class Memory:
    """Bytes of a device: what the weights and full forward passes use, and the limit."""

    used: int
    limit: int

    @property
    def used_mib(self) -> int:
        """The bytes used in MiB, rounded up."""
        return math.ceil(self.used / _MIB)

    @property
    def limit_mib(self) -> int:
        """The limit in MiB, rounded down."""
        return self.limit // _MIB


def device_problem(num_gpus: float, assigned: tuple[str, ...], seen: VisibleDevices) -> str | None:
    """Returns why a replica with ``num_gpus`` does not run on its assigned GPU, or None if it does.

    ``assigned`` holds the ids of the GPUs that Ray has assigned to it.
    """
    if not num_gpus:
        return None
    if len(assigned) != 1:
        return f"num_gpus is {num_gpus:g}, but Ray has assigned GPUs {_listed(assigned)}"
    if seen.only_listed:
        return (
            f"Ray has assigned GPU {_listed(assigned)} and the driver lists it, but CUDA does not start; "
            "if the driver is too old for torch, update it or install torch for an older CUDA"
        )
    if not seen.devices:
        return (
            f"Ray has assigned GPU {_listed(assigned)}, but torch sees no CUDA device; install torch "
            "with CUDA and a driver that is new enough for it, or set `device: cpu` if the GPUs are "
            "only logical"
        )
    visible = tuple(part for part in (seen.visible or "").split(",") if part)
    if visible != assigned or seen.devices != 1:
        return (
            f"Ray has assigned GPU {_listed(assigned)}, but CUDA_VISIBLE_DEVICES is "
            f"{seen.visible!r} and torch sees {seen.devices} devices"
        )
    return None


def share_of_device(num_gpus: float, total: int) -> int:
    """Returns how many of a device's ``total`` bytes a replica with ``num_gpus`` may use.

    A fraction is reduced by CUDA's own context, which torch does not count.
    """
    return max(0, int(total * num_gpus) - _CONTEXT) if 0 < num_gpus < 1 else total


def memory_problem(on_gpu: bool, reason: str) -> str:
    """Returns the message, with the fix, for a model that ran out of memory while loading."""
    more = "raise `num_gpus`, or ask for a larger GPU" if on_gpu else "or give it a larger node"
    return (
        "the weights and one forward pass do not fit in the memory that this replica may use; lower "
        f"`token_budget`, {more} ({reason})"
    )


def _listed(ids: tuple[str, ...]) -> str:
    return ", ".join(ids) or "none"
