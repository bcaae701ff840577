"""What the layers of the client hand to each other: a call, its answer, and how it can go astray.

Each layer has the same method ``send``, and holds the layer below it. `EncoderClient` composes them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from deployments.core.batch import Encoded, TokenBatch
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import SHARE_OF_ANYONE, Share
from deployments.wire.calls import OtherVersion, Terms


@dataclass(frozen=True)
class Call:
    """Texts for one replica. ``space`` is the embedding space that their token ids were made for.

    ``deadline`` is a time of `time.monotonic`. With ``trial``, the name of a trial, the replica gives
    each text a forward pass of its own (`deployments/client/poison.py`). ``share`` is that of the tenant.
    """

    batch: TokenBatch
    lane: Lane
    deadline: float
    space: str
    trial: str | None = None
    share: Share = SHARE_OF_ANYONE

    @property
    def terms(self) -> Terms:
        """What it asks of its replica."""
        return Terms(self.space, self.trial, self.share.name, self.share.weight)

    @property
    def left_s(self) -> float:
        """The seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()


class Sender(Protocol):
    """One layer of the client."""

    async def send(self, call: Call) -> Encoded:
        """Returns the answer, in which single texts may have an error in place of a vector.

        Raises an EmbedfleetError for an error of the whole call, Moved, or ReplicaDied.
        """


class Moved(Exception):
    """The replica that took the call serves another version."""

    def __init__(self, version: OtherVersion) -> None:
        super().__init__(version)
        self.version = version


class ReplicaDied(Exception):
    """The process that a call was sent to has died, or cannot be reached any more."""
