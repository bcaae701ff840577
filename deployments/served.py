"""A served model, as a corpus job has to know it to call its replicas."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.config import ModelConfig
from deployments.embedding.model import ModelSpec, Role
from deployments.status import ModelStatus


@dataclass(frozen=True)
class ServedModel:
    """What answers to a name: the model, the role that the name asks for, and its state.

    ``spec`` is None while the model's files have not been read.
    """

    config: ModelConfig
    spec: ModelSpec | None
    role: Role | None
    status: ModelStatus
