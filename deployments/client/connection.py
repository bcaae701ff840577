"""The TCP connection of this process to one replica. It carries all calls to that replica at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Protocol, cast

from deployments.client.call import Call, Moved, ReplicaDied
from deployments.core.batch import Encoded
from deployments.core.errors import Overloaded
from deployments.core.lane import Lane
from deployments.wire import frames
from deployments.wire.frames import BadFrame, CallFrame, Frame, FrameReader, Kind
from deployments.wire.registry import Address
from deployments.wire.status import ReplicaStatus

log = logging.getLogger("ray.serve")
_MOST_UNSENT_BYTES = 64 * 2**20  # that a replica has not read; it must be hung


class Listener(Protocol):
    """Receives what a connection hears from its replica."""

    def heard(self, connection: Connection, status: ReplicaStatus) -> None:
        """The replica has said how it is; the first time, the connection is ready for calls."""

    def answered(self, connection: Connection, waiting: Mapping[Lane, int]) -> None:
        """An answer has come, with the tokens that still wait at the replica."""

    def leaving(self, connection: Connection) -> None:
        """The replica stops; it still answers the calls that it has."""

    def lost(self, connection: Connection) -> None:
        """The connection has ended."""


class Connection(asyncio.Protocol):
    """For one asyncio loop. Futures of calls end with an answer or an exception of `Sender.send`."""

    def __init__(self, replica: str, token: bytes, listener: Listener) -> None:
        self.replica = replica
        self._token = token
        self._listener = listener
        self._reader = FrameReader()
        self._numbers = count(1)
        self._calls: dict[int, asyncio.Future[Encoded]] = {}
        self._transport: asyncio.Transport | None = None
        self._is_welcome = False
        self._has_ended = False
        self._ready = asyncio.Event()

    @property
    def calls(self) -> int:
        """The number of calls under way."""
        return len(self._calls)

    def begin(self, call: Call) -> asyncio.Future[Encoded]:
        """Sends a call. Cancelling the future tells the replica to drop the texts.

        Raises Overloaded if the replica does not read what it is sent.
        """
        assert self._transport is not None
        if self._transport.get_write_buffer_size() > _MOST_UNSENT_BYTES:
            raise Overloaded("a replica does not read its calls", retry_after_s=1.0)
        number = next(self._numbers)
        future = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        future.add_done_callback(partial(self._settled, number))
        fields = CallFrame(call.batch, call.lane, max(0.0, call.left_s), call.terms)
        self._transport.write(frames.call(number, fields))
        return future

    async def is_ready(self, timeout_s: float) -> bool:
        """Returns whether the replica has accepted the token and said how it is, waiting for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ready.wait()
        return self._ready.is_set() and not self._has_ended

    def close(self) -> None:
        """Ends the connection; calls under way fail as if the replica had died."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Shows the token."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(frames.hello(self._token))

    def data_received(self, data: bytes) -> None:
        """Takes the frames that are complete. One that cannot be read ends the connection."""
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except BadFrame as error:
            log.warning("the connection to replica %s is closed: it sent %s", self.replica, error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Fails the calls under way at once."""
        self._has_ended = True
        self._ready.set()
        for future in list(self._calls.values()):
            if not future.done():
                why = error or "it closed the connection"
                future.set_exception(ReplicaDied(f"replica {self.replica} has died: {why}"))
        self._listener.lost(self)

    def _take(self, frame: Frame) -> None:
        if not self._is_welcome:
            if (version := frames.read_welcome(frame)) != frames.VERSION:
                raise BadFrame(
                    f"protocol version {version}, and this process speaks {frames.VERSION}"
                )
            self._is_welcome = True
        elif frame.kind is Kind.STATUS:
            self._listener.heard(self, frames.read_status(frame.body))
            self._ready.set()
        elif frame.kind is Kind.GOAWAY:
            self._listener.leaving(self)
        else:
            self._take_reply(frame)

    def _take_reply(self, frame: Frame) -> None:
        """Ends the future of a call, unless its caller has gone meanwhile."""
        future = self._calls.get(frame.number)
        is_awaited = future is not None and not future.done()
        if frame.kind is Kind.ANSWER:
            encoded, waiting = frames.read_answer(frame.body)
            self._listener.answered(self, waiting)
            if future is not None and is_awaited:
                future.set_result(encoded)
            return
        if frame.kind is Kind.REFUSAL:
            error: Exception = frames.read_refusal(frame.body)
        elif frame.kind is Kind.MOVED:
            error = Moved(frames.read_moved(frame.body))
        else:
            raise BadFrame(f"a frame {frame.kind.name} from a replica")
        if future is not None and is_awaited:
            future.set_exception(error)

    def _settled(self, number: int, future: asyncio.Future[Encoded]) -> None:
        del self._calls[number]
        if future.cancelled() and self._transport is not None and not self._has_ended:
            self._transport.write(frames.frame(Kind.CANCEL, number))


async def connect(
    replica: str, address: Address, listener: Listener, timeout_s: float
) -> Connection:
    """Returns an open connection; it takes calls once its listener has heard a status.

    Raises OSError or TimeoutError.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        _, connection = await loop.create_connection(
            lambda: Connection(replica, address.token, listener), address.host, address.port
        )
    return connection
