"""What outlives a replica's process: which text of a trial it had begun, and which are blocked.

Kept in Ray's own key-value store (in the GCS, and with it in Redis where that is configured), since
a process that dies can say nothing any more. A short write before and after each text of a trial;
ordinary calls never come here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from deployments.ray_private import KeyValueStore

T = TypeVar("T")

log = logging.getLogger("ray.serve")
_store = KeyValueStore("embedfleet")
_PATIENCE_S = 5.0  # the store may be away for as long as the head of the cluster
# one, so that what is written stays in order; and whoever waits here keeps no tokenizer waiting
_thread = ThreadPoolExecutor(1, "trials")
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
        found = await _asked(lambda: _store.get(_trial_key(trial)), None)
        return int(found) if found else None

    async def block(self, trial: str, text: str) -> None:
        """As `Record.block`."""
        await _asked(lambda: _store.put(self._head + text, str(time.time())), None)
        await _asked(lambda: _forget(trial), None)

    async def blocked(self, texts: Sequence[str]) -> list[str]:
        """As `Record.blocked`."""
        known: set[str] = await _asked(lambda: _recent(self._head), set())
        return [text for text in texts if self._head + text in known]


def begin(trial: str, row: int | None) -> None:
    """Notes, from a replica, that the next forward pass is this row's alone; None: it has ended.

    Raises what the store raises, and TimeoutError where it is away.
    """
    if row is None:  # nothing stays behind, whatever becomes of the call
        noted: Future[None] = _thread.submit(_forget, trial)
    else:
        noted = _thread.submit(_store.put, _trial_key(trial), str(row))
    noted.result(_PATIENCE_S)


async def _asked(call: Callable[[], T], otherwise: T) -> T:
    """What is not known, or cannot be told to others, costs a replica more, and no answer."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await asyncio.wrap_future(_thread.submit(call))
    except Exception as error:
        log.warning("the record of texts that kill replicas cannot be reached: %r", error)
        return otherwise


def _forget(trial: str) -> None:
    _store.delete(_trial_key(trial))


def _trial_key(trial: str) -> str:
    return f"trial/{trial}"


def _recent(head: str) -> set[str]:
    since = time.time() - _KEEP_S
    return {key for key in _store.keys(head) if float(_store.get(key) or 0) > since}
