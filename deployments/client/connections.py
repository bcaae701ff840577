"""A model's connections: one to each of its replicas, opened and closed as replicas come and go."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

from deployments.client.balancing import Balancer
from deployments.client.call import Call
from deployments.client.connection import Connection, connect
from deployments.core.batch import Encoded
from deployments.core.lane import Lane
from deployments.wire import frames
from deployments.wire.registry import Address, find
from deployments.wire.status import ReplicaStatus

log = logging.getLogger("ray.serve")
_LOOK_EVERY_S = 0.2
_CONNECT_S = 3.0
_FIND_S = 5.0
_AGAIN_S = 1.0
_DEAD_AFTER_S = 20.0  # without a word: its node may be gone, and no packet will ever say so


@dataclass(frozen=True)
class Attempt:
    """A call under way to one replica."""

    replica: str
    future: asyncio.Future[Encoded]


class Connections:
    """For one asyncio loop."""

    def __init__(
        self,
        name: str,
        known: Callable[[], Collection[str]],
        find: Callable[[str], Address | None] = find,
    ) -> None:
        """``known`` returns the ids of the replicas that Serve runs now, ``find`` blocks and returns
        where one of them listens.
        """
        self._name = name
        self._known = known
        self._find = find
        self._balancer = Balancer()
        self._connections: dict[str, Connection] = {}
        self._going: set[str] = set()
        self._connecting: dict[str, asyncio.Task[None]] = {}
        self._try_again: dict[str, float] = {}
        self._statuses: dict[str, ReplicaStatus] = {}
        self._warned: set[str] = set()
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch which replicas there are, unless it does. Call it in the loop."""
        if self._watching is None:
            # in no request's context: if a client goes, Serve cancels what was called in its context
            self._watching = asyncio.get_running_loop().create_task(
                self._watch(), context=contextvars.Context()
            )

    def close(self) -> None:
        """Stops watching and closes all connections."""
        for task in (self._watching, *self._connecting.values()):
            if task is not None:
                task.cancel()
        for connection in list(self._connections.values()):
            connection.close()

    def statuses(self) -> list[ReplicaStatus]:
        """Returns what each replica with a connection said last, in the last seconds."""
        now = time.monotonic()
        return [s for key, s in self._statuses.items() if not self._balancer.is_silent(key, now)]

    def begin(self, call: Call, besides: Collection[str] = ()) -> Attempt | None:
        """Sends a call to the replica that will be done with it first; None if there is none.

        Raises Overloaded if that one does not read what it is sent.
        """
        lane, tokens, now = call.lane, call.batch.tokens, time.monotonic()
        replica = self._balancer.pick(lane, tokens, call.space, now, besides)
        if replica is None:
            return None
        future = self._connections[replica].begin(call)
        self._balancer.sent(replica, lane, tokens)
        future.add_done_callback(lambda _: self._balancer.ended(replica, lane, tokens))
        return Attempt(replica, future)

    def is_silent(self, attempt: Attempt) -> bool:
        """Whether the replica of a call has said nothing for seconds."""
        return self._balancer.is_silent(attempt.replica, time.monotonic())

    def heard(self, connection: Connection, status: ReplicaStatus) -> None:
        """As `Listener.heard`."""
        now = time.monotonic()
        if connection.replica in self._statuses:
            self._balancer.heard(connection.replica, status, now)
        else:
            self._connections[connection.replica] = connection
            self._balancer.join(connection.replica, status, now)
        self._statuses[connection.replica] = status

    def answered(self, connection: Connection, waiting: Mapping[Lane, int]) -> None:
        """As `Listener.answered`."""
        self._balancer.answered(connection.replica, waiting, time.monotonic())

    def leaving(self, connection: Connection) -> None:
        """As `Listener.leaving`."""
        self._going.add(connection.replica)
        self._balancer.avoid(connection.replica, True)

    def lost(self, connection: Connection) -> None:
        """As `Listener.lost`."""
        if self._connections.get(connection.replica) is connection:
            del self._connections[connection.replica]
            del self._statuses[connection.replica]
            self._balancer.leave(connection.replica)
        self._try_again[connection.replica] = time.monotonic() + _AGAIN_S

    async def _watch(self) -> None:
        last = time.monotonic()
        while True:
            now = time.monotonic()
            was_asleep, last = now - last > 2 * _LOOK_EVERY_S + 1.0, now
            try:
                self._look(now, was_asleep)
            except Exception:
                log.exception("%s: its connections could not be updated; trying again", self._name)
            await asyncio.sleep(_LOOK_EVERY_S)

    def _look(self, now: float, was_asleep: bool) -> None:
        known = set(self._known())
        for replica, connection in list(self._connections.items()):
            is_going = replica in self._going or replica not in known
            self._balancer.avoid(replica, is_going)
            if is_going and not connection.calls:
                connection.close()
            elif not was_asleep and self._balancer.silence_s(replica, now) > _DEAD_AFTER_S:
                log.warning(
                    "%s: replica %s is silent, its connection is closed", self._name, replica
                )
                connection.close()
        self._going &= known
        self._warned &= known
        self._try_again = {r: at for r, at in self._try_again.items() if r in known}
        for replica in known - self._connections.keys() - self._connecting.keys() - self._going:
            if now >= self._try_again.get(replica, now):
                self._connect(replica)

    def _connect(self, replica: str) -> None:
        task = asyncio.get_running_loop().create_task(self._open(replica))
        self._connecting[replica] = task
        task.add_done_callback(lambda _: self._connecting.pop(replica, None))

    async def _open(self, replica: str) -> None:
        """Opens a connection if its replica listens; if not, it is tried again."""
        self._try_again[replica] = time.monotonic() + _AGAIN_S
        try:
            async with asyncio.timeout(_FIND_S):
                address = await asyncio.wrap_future(_thread().submit(self._find, replica))
            if address is None:  # it has only just started, or does not listen
                return
            if address.version != frames.VERSION:
                self._warn(replica, f"it speaks version {address.version} of the protocol")
                return
            connection = await connect(replica, address, self, _CONNECT_S)
        except (OSError, TimeoutError) as error:
            self._warn(replica, f"its port cannot be reached ({error!r})")
            return
        except Exception as error:  # the store is away
            log.warning("%s: replica %s cannot be looked up: %r", self._name, replica, error)
            return
        if not await connection.is_ready(_CONNECT_S):
            self._warn(replica, "it does not accept the connection")
            connection.close()

    def _warn(self, replica: str, why: str) -> None:
        """Says it once: it is tried again each second, also for a replica that has just died."""
        if replica not in self._warned:
            self._warned.add(replica)
            log.warning(
                "%s: no connection to replica %s, so calls may use Serve's handle, which costs more: %s",
                self._name,
                replica,
                why,
            )


@cache
def _thread() -> ThreadPoolExecutor:
    """One for all models: look-ups are rare, and a store that is away holds up nothing else."""
    return ThreadPoolExecutor(1, "connections")
