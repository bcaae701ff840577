"""What outlives a replica's process: which text of a trial it had begun, and which are blocked.

Kept in Ray's own key-value store (in the GCS, and with it in Redis where that is configured), since
a process that dies can say nothing any more. A short write before and after each text of a trial;
ordinary calls never come here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from ray.experimental import internal_kv

_NAMESPACE = "embedfleet"
_KEEP_S = 3_600.0


class Record(Protocol):
    """What a client reads after a death, and writes for the other clients."""

    async def last_begun(self, trial: str) -> int | None:
        """Returns the row that a replica had begun when it died; None if that is not known."""

    async def block(self, trial: str, text: str) -> None:
        """Notes that this text kills; its trial is over."""

    async def blocked(self, texts: Sequence[str]) -> list[str]:
        """Returns those of the texts that some client has seen blocked within the last hour."""


class ClusterRecord:
    """The record of one deployment. ``model`` keeps models apart: what kills one may suit another."""

    def __init__(self, model: str) -> None:
        self._head = f"killer/{model}/"

    async def last_begun(self, trial: str) -> int | None:
        """As `Record.last_begun`."""
        found = await asyncio.to_thread(_get, _trial_key(trial))
        return int(found) if found else None

    async def block(self, trial: str, text: str) -> None:
        """As `Record.block`."""
        await asyncio.to_thread(_put, self._head + text, str(time.time()))
        await asyncio.to_thread(_forget, trial)

    async def blocked(self, texts: Sequence[str]) -> list[str]:
        """As `Record.blocked`."""
        known = await asyncio.to_thread(_recent, self._head)
        return [text for text in texts if self._head + text in known]


def begin(trial: str, row: int | None) -> None:
    """Notes, from a replica, that the next forward pass is this row's alone; None: it has ended."""
    if row is None:  # nothing stays behind, whatever becomes of the call
        _forget(trial)
    else:
        _put(_trial_key(trial), str(row))


def _forget(trial: str) -> None:
    internal_kv._internal_kv_del(_trial_key(trial), namespace=_NAMESPACE)


def _trial_key(trial: str) -> str:
    return f"trial/{trial}"


def _recent(head: str) -> set[str]:
    keys = [key.decode() for key in internal_kv._internal_kv_list(head, namespace=_NAMESPACE)]
    since = time.time() - _KEEP_S
    return {key for key in keys if float(_get(key) or 0) > since}


def _put(key: str, value: str) -> None:
    internal_kv._internal_kv_put(key, value, overwrite=True, namespace=_NAMESPACE)


def _get(key: str) -> bytes | None:
    found: bytes | None = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
    return found
