"""What a model's replicas say of themselves, and what the service says of a model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReplicaState(StrEnum):
    """One replica's state."""

    LOADING = "loading"
    READY = "ready"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class ReplicaStatus:
    """One replica's own word; ``reason`` says why it is not ready."""

    state: ReplicaState
    reason: str | None = None
    device: str | None = None
    dtype: str | None = None
    tokens_per_s: int | None = None


class ModelState(StrEnum):
    """Whether a model answers: now, after a start, or not until something is mended."""

    READY = "ready"
    STARTING = "starting"
    COLD = "cold"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True)
class ModelStatus:
    """A model as the whole service sees it."""

    state: ModelState
    replicas: int = 0
    reason: str | None = None
    device: str | None = None
    dtype: str | None = None
    tokens_per_s: int | None = None
