"""Layers that send a call again: after a refusal for overload, and after meeting another version."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress

from deployments.client.call import Call, Moved, Sender
from deployments.core.batch import Encoded
from deployments.core.errors import Overloaded
from deployments.core.lane import Lane

_PAUSE_S = 0.2
_KNOCKS = 5
_KNOCK_AGAIN_S = 0.1


class RetryOverload:
    """Sends calls of these lanes again until the lane has room or the deadline would pass."""

    def __init__(self, inner: Sender, lanes: Collection[Lane]) -> None:
        self._inner = inner
        self._lanes = frozenset(lanes)

    async def send(self, call: Call) -> Encoded:
        """As `Sender.send`; raises Overloaded for other lanes, or if no time is left to wait."""
        while True:
            try:
                return await self._inner.send(call)
            except Overloaded as full:
                pause = full.retry_after_s or _PAUSE_S
                if call.lane not in self._lanes or pause >= call.left_s:
                    raise
            await asyncio.sleep(pause)


class RetryMoved:
    """Tries other replicas before it raises Moved.

    In the middle of an update, hardly any request of many calls would meet one version alone.
    """

    def __init__(self, inner: Sender) -> None:
        self._inner = inner

    async def send(self, call: Call) -> Encoded:
        """As `Sender.send`."""
        for _ in range(_KNOCKS):
            with suppress(Moved):
                return await self._inner.send(call)
            await asyncio.sleep(_KNOCK_AGAIN_S)
        return await self._inner.send(call)
