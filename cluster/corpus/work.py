"""What a corpus job sends to each of its workers, and what they send back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cluster.corpus.encode.row_encoder import Target
from cluster.corpus.formats.files import InputFile
from cluster.corpus.prepare.documents import TextOptions
from cluster.corpus.settings import Settings
from cluster.corpus.write.manifest import Counts, Identity, PartRecord, Source
from cluster.corpus.write.output import Output
from deployments.config.schema import ModelConfig
from deployments.core.models.spec import Role

_MARGIN_S = 60.0  # the driver, which knows why, gives up first


@dataclass(frozen=True)
class Work:
    """Everything that a worker needs.

    ``recorded`` are the settings as the manifest has them, ``app`` is the Serve application, ``inputs``
    the input's file system, ``carried`` the Arrow schema of the columns to carry along, ``collector``
    the handle of a `ProgressCollector`.
    """

    settings: Settings
    recorded: Mapping[str, Any]
    identity: Identity
    app: str
    config: ModelConfig
    tokens_per_s: float | None
    replicas: int
    workers: int
    inputs: Any
    output: Output
    carried: Any
    wait_s: float
    collector: Any

    @property
    def target(self) -> Target:
        """Which replicas encode the texts, and how."""
        s = self.settings
        role = Role.QUERY if s.pairs else Role(self.identity.role)
        options = TextOptions(
            role, self.identity.instruction, s.truncate, s.chunk, s.overlap, s.pairs
        )
        return Target(
            app=self.app,
            config=self.config,
            tokens_per_s=self.tokens_per_s,
            replicas=self.replicas,
            workers=self.workers,
            options=options,
            dimensions=self.identity.dimensions,
            wait_s=self.wait_s + _MARGIN_S,
        )

    def record(self, file: InputFile, counts: Counts) -> PartRecord:
        """Returns what the metadata of a part of ``file`` say."""
        return PartRecord(self.identity, self.recorded, Source.of(file), counts)


@dataclass(frozen=True)
class PartResult:
    """What became of a part.

    ``ids`` are the digests of its rows' ids, concatenated (see `dedupe.py`), ``note`` is something that
    the user should know, ``error`` why the job cannot go on.
    """

    number: int
    counts: Counts = field(default_factory=Counts)
    ids: bytes = b""
    note: str | None = None
    error: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> PartResult:
        """The inverse of `as_columns`, for one row."""
        content = json.loads(row["result"])
        return cls(**{**content, "counts": Counts(**content["counts"]), "ids": row["ids"]})


def as_columns(results: Sequence[PartResult]) -> dict[str, Any]:
    """Returns results as Ray Data carries them."""
    rows = [{**asdict(result), "ids": None} for result in results]
    return {
        "result": np.array([json.dumps(row) for row in rows], object),
        "ids": np.array([result.ids for result in results], object),
    }
