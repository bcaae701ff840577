"""The replica's end of its connections: takes calls, sends answers and the replica's status."""

from __future__ import annotations

import asyncio
import contextvars
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Protocol, cast

from deployments.core.batch import Encoded
from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane
from deployments.wire import frames
from deployments.wire.calls import OtherVersion
from deployments.wire.frames import (
    MAX_BODY_BYTES,
    MAX_HELLO_BYTES,
    BadFrame,
    Frame,
    FrameReader,
    Kind,
)
from deployments.wire.registry import Address
from deployments.wire.status import ReplicaStatus

log = logging.getLogger("ray.serve")
_HELLO_S = 5.0
_STATUS_EVERY_S = 1.0
_LINGER_S = 2.0  # for clients to close their end, once they have their answers
_MOST_UNREAD_BYTES = 256 * 2**20  # of answers; a client that reads nothing must be hung


class Replica(Protocol):
    """What answers the calls."""

    async def answer(self, call: frames.CallFrame) -> Encoded | OtherVersion | EmbedfleetError:
        """Returns the answer to a call. If it is cancelled, its texts are dropped."""

    def said(self) -> ReplicaStatus:
        """Returns the replica's status."""

    def waiting(self) -> Mapping[Lane, int]:
        """Returns the tokens that wait in each lane."""


class ConnectionServer:
    """Listens for the connections of one replica. For one asyncio loop."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.token = secrets.token_bytes(frames.TOKEN_BYTES)
        self._server: asyncio.Server | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._connections: set[_Connection] = set()

    async def listen(self, host: str) -> Address:
        """Listens on a free port of this host, unless it does already. Returns where. Raises OSError."""
        loop = asyncio.get_running_loop()
        if self._server is None:
            self._server = await loop.create_server(self._accept, host, 0)
            self._ticking = loop.create_task(self._tick(), context=contextvars.Context())
        port = self._server.sockets[0].getsockname()[1]
        return Address(host, port, self.token, frames.VERSION)

    async def close(self, timeout_s: float) -> None:
        """Tells the clients that the replica stops, and returns once they have all their answers.

        It waits no longer than ``timeout_s``.
        """
        if self._server is None or self._ticking is None:
            return
        self._server.close()
        self._ticking.cancel()
        for connection in self._connections:
            connection.send(frames.frame(Kind.GOAWAY))
        deadline = time.monotonic() + timeout_s
        while (
            any(connection.calls for connection in self._connections)
            and time.monotonic() < deadline
        ):
            await asyncio.sleep(0.05)
        deadline = min(deadline, time.monotonic() + _LINGER_S)
        while (
            self._connections and time.monotonic() < deadline
        ):  # a client closes a connection that it is done with
            await asyncio.sleep(0.05)
        for connection in list(self._connections):
            connection.close()

    def _accept(self) -> _Connection:
        return _Connection(self._replica, self.token, self._connections)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_STATUS_EVERY_S)
            try:
                said = frames.status(self._replica.said())
            except Exception:
                log.exception("the replica's status cannot be read; clients get the next one")
                continue
            for connection in list(self._connections):
                connection.send(said)


class _Connection(asyncio.Protocol):
    """One client's connection. It joins ``connections`` once it has shown the token."""

    def __init__(self, replica: Replica, token: bytes, connections: set[_Connection]) -> None:
        self._replica = replica
        self._token = token
        self._connections = connections
        self._reader = FrameReader(MAX_HELLO_BYTES)
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._transport: asyncio.Transport | None = None
        self._hello_late: asyncio.TimerHandle | None = None

    @property
    def calls(self) -> int:
        """The number of calls that are not answered yet."""
        return len(self._calls)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for HELLO, but not for long."""
        self._transport = cast(asyncio.Transport, transport)
        self._hello_late = asyncio.get_running_loop().call_later(_HELLO_S, self.close)

    def data_received(self, data: bytes) -> None:
        """Takes the frames that are complete. One that cannot be read ends the connection."""
        try:
            for frame in self._reader.feed(data):
                self._take(frame)
        except BadFrame as error:
            log.warning("a connection is closed: its client sent %s", error)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002
        """Drops the client's calls."""
        if self._hello_late is not None:
            self._hello_late.cancel()
        self._connections.discard(self)
        for task in self._calls.values():
            task.cancel()

    def send(self, frame: bytes) -> None:
        """Writes a frame. A client that reads nothing loses its connection."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > _MOST_UNREAD_BYTES:
            log.warning("a connection is closed: its client does not read its answers")
            self.close()
            return
        self._transport.write(frame)

    def close(self) -> None:
        """Ends the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self, frame: Frame) -> None:
        if self not in self._connections:
            self._greet(frames.read_hello(frame))
        elif frame.kind is Kind.CALL:
            self._begin(frame)
        elif frame.kind is Kind.CANCEL:
            if task := self._calls.get(frame.number):
                task.cancel()
        else:
            raise BadFrame(f"a frame {frame.kind.name} from a client")

    def _greet(self, hello: frames.Hello) -> None:
        assert self._transport is not None
        if not hmac.compare_digest(hello.token, self._token):
            raise BadFrame("a wrong token")
        if hello.version != frames.VERSION:
            log.info("a connection is closed: its client speaks protocol version %d", hello.version)
            self.send(frames.welcome())  # which says the version of this one
            self._transport.close()
            return
        if self._hello_late is not None:
            self._hello_late.cancel()
        self._connections.add(self)
        self._reader.max_body_bytes = MAX_BODY_BYTES
        self.send(frames.welcome() + frames.status(self._replica.said()))

    def _begin(self, frame: Frame) -> None:
        if frame.number in self._calls:
            raise BadFrame(f"a second call of number {frame.number}")
        call = frames.read_call(frame.body)
        task = asyncio.get_running_loop().create_task(self._answer(frame.number, call))
        self._calls[frame.number] = task
        task.add_done_callback(lambda _: self._calls.pop(frame.number, None))

    async def _answer(self, number: int, call: frames.CallFrame) -> None:
        try:
            reply = await self._replica.answer(call)
        except Exception as error:
            log.exception("a call failed")
            reply = EmbedfleetError(f"the replica failed: {error!r}")
        if isinstance(reply, Encoded):
            self.send(frames.answer(number, reply, self._replica.waiting()))
        elif isinstance(reply, OtherVersion):
            self.send(frames.moved(number, reply))
        else:
            self.send(frames.refusal(number, reply))
