"""What a corpus job sends to each of its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.corpus.prepare.documents import TextOptions
from cluster.corpus.settings import Settings
from cluster.corpus.write.manifest import Identity
from cluster.corpus.write.output import Output
from deployments.config.schema import ModelConfig
from deployments.core.models.spec import Role


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs.

    ``app`` is the Serve application, ``inputs`` the input's file system, ``carried`` the Arrow schema
    of the columns to carry along, ``collector`` the handle of a `ProgressCollector`.
    """

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
    collector: Any

    @property
    def text_options(self) -> TextOptions:
        """How texts are prepared."""
        s = self.settings
        role = Role(self.identity.role)
        return TextOptions(role, self.identity.instruction, s.truncate, s.chunk, s.overlap)
