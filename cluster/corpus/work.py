"""What every worker of a corpus job is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.corpus.prepare.documents import Cut
from cluster.corpus.settings import Settings
from cluster.corpus.write.manifest import Identity
from cluster.corpus.write.output import Output
from deployments.config.schema import ModelConfig
from deployments.core.models.spec import Role


@dataclass(frozen=True)
class Work:
    """All that a worker has to know. ``carried`` is the Arrow schema of the columns to keep."""

    settings: Settings
    identity: Identity
    app: str
    config: ModelConfig
    tokens_per_s: float | None
    replicas: int
    workers: int
    inputs: Any
    output: Output
    carried: Any
    board: Any

    @property
    def cut(self) -> Cut:
        """How texts are prepared."""
        s = self.settings
        role = Role(self.identity.role)
        return Cut(role, self.identity.instruction, s.truncate, s.chunk, s.overlap)
