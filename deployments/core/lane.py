"""Who waits for whom inside a replica."""

from __future__ import annotations

from enum import StrEnum


class Lane(StrEnum):
    """Who waits for whom inside a replica."""

    ONLINE = "online"
    OFFLINE = "offline"
