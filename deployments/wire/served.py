"""A served model, as a corpus job has to know it to call its replicas."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.config.schema import ModelConfig
from deployments.core.models.spec import ModelSpec, Role
from deployments.wire.status import ModelStatus


@dataclass(frozen=True)
class ServedModel:
    """What answers to a name: the model, the role that the name asks for, and its state.

    ``spec`` is None while the model's files have not been read.
    """

    config: ModelConfig
    spec: ModelSpec | None
    role: Role | None
    status: ModelStatus

    @property
    def pinned(self) -> ModelConfig:
        """The config with the revision that the service has read: who is told it hashes no weights."""
        if self.spec is None:
            return self.config
        return self.config.model_copy(update={"revision": self.spec.revision})
