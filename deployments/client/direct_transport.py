"""The lowest layer of the client: sends calls over its connections, or by Serve's handle if it has none.

It has none while no replica runs: a call by handle then waits in Serve, which counts it as demand and
starts a replica. Nor does it have one to replicas that speak another version of the protocol, as in an
update of this code, or that the network lets nobody reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deployments.client.call import Call, Sender
from deployments.client.connections import Attempt, Connections
from deployments.core.batch import Encoded
from deployments.wire.status import ModelStatus, late

_LOOK_EVERY_S = 1.0  # at the replicas of calls that take long
_MOST_TRIES = 3


class DirectTransport:
    """Sends calls to the replicas of one model; what a silent replica has goes to another one too."""

    def __init__(
        self,
        name: str,
        connections: Connections,
        by_handle: Sender,
        status: Callable[[], ModelStatus],
    ) -> None:
        self._name = name
        self._connections = connections
        self._by_handle = by_handle
        self._status = status

    async def send(self, call: Call) -> Encoded:
        """As `Sender.send`. Replicas drop the call if it is cancelled or late."""
        self._connections.start()
        first = self._connections.begin(call)
        if first is None:
            return await self._by_handle.send(call)
        attempts = [first]
        try:
            return await self._answer(call, attempts)
        finally:
            for attempt in attempts:
                attempt.future.cancel()

    async def _answer(self, call: Call, attempts: list[Attempt]) -> Encoded:
        """Returns the first answer, or raises the last error; adds to ``attempts``."""
        tried = {attempt.replica for attempt in attempts}
        while True:
            wait_s = max(0.0, min(call.left_s, _LOOK_EVERY_S))
            ended, _ = await asyncio.wait(
                [attempt.future for attempt in attempts],
                timeout=wait_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for future in ended:
                if (error := future.exception()) is None:
                    return future.result()
                attempts[:] = [attempt for attempt in attempts if attempt.future is not future]
                if not attempts:
                    raise error
            if call.left_s <= 0:
                raise late(self._name, self._status(), call.lane, call.left_s)
            if another := self._another(call, attempts, tried):
                attempts.append(another)
                tried.add(another.replica)

    def _another(self, call: Call, attempts: list[Attempt], tried: set[str]) -> Attempt | None:
        """Sends the call to a further replica if all that have it are silent.

        A replica that speaks but does not answer is busy, or its pass hangs, maybe on this very text,
        which must not hang another one: such a replica fails its health check and is replaced. And
        never a trial: what it proves is written under one name, by one replica.
        """
        if call.trial or len(tried) >= _MOST_TRIES:
            return None
        if not all(self._connections.is_silent(attempt) for attempt in attempts):
            return None
        return self._connections.begin(call, besides=tried)
