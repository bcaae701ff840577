"""What a client asks of a replica, and what the replica answers."""

from __future__ import annotations

from dataclasses import dataclass

from deployments.config.schema import ModelConfig


@dataclass(frozen=True)
class Terms:
    """What a call asks of its replica: to be of this space, and to run the texts one by one where
    ``trial`` names the trial of texts that may have killed another replica.
    """

    space: str
    trial: str | None = None


@dataclass(frozen=True)
class OtherVersion:
    """A replica's answer to a call that was made for another version: what it serves itself."""

    config: ModelConfig
    space: str
