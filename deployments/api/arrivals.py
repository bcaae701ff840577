"""Request bodies that still arrive: each must keep coming, and takes no place from what waits.

A connection that sends one byte and then nothing costs its sender nothing. From half of the bound on, the
body that has stood still the longest makes room for a new one, so that such connections never take
all that HAProxy opens to a router.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from deployments.core.errors import BodyTooSlow, Overloaded

_PART_BYTES = 8_192
_PART_S = 5.0  # for each part of a body; a slow line still brings 1.6 kB a second
_STANDS_STILL_S = 0.5
_RETRY_AFTER_S = 1.0


class Arrivals:
    """The bodies that arrive in one router. For one asyncio loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bodies: set[ArrivingBody] = set()

    def begin(self) -> ArrivingBody:
        """Returns a body that is about to arrive; `end` must follow.

        Raises Overloaded if too many arrive and none of them stands still.
        """
        if len(self._bodies) >= self._most / 2 and not self._make_room():
            self._check_bound()
        body = ArrivingBody()
        self._bodies.add(body)
        return body

    def end(self, body: ArrivingBody) -> None:
        """Counts a body no longer, because it is there or given up. May be called again."""
        self._bodies.discard(body)

    def _make_room(self) -> bool:
        """Gives up the body that has stood still the longest. Returns False if none stands still."""
        awaited = [body for body in self._bodies if body.is_awaited]
        slowest = min(awaited, key=lambda body: body.last_byte, default=None)
        now = asyncio.get_running_loop().time()
        if slowest is None or now - slowest.last_byte < _STANDS_STILL_S:
            return False
        slowest.give_up()
        self._bodies.discard(slowest)
        return True

    def _check_bound(self) -> None:
        if len(self._bodies) >= self._most:
            raise Overloaded(
                f"{len(self._bodies)} request bodies are arriving at this router; retry later, or add "
                "routers",
                retry_after_s=_RETRY_AFTER_S,
            )


class ArrivingBody:
    """The parts of one body, each within its time.

    The time in which nobody asks for the next part, such as while an upload is written, does not count.
    """

    def __init__(self) -> None:
        self.last_byte = self._part_began = self._left = asyncio.get_running_loop().time()
        self._missing = _PART_BYTES
        self._timeout: asyncio.Timeout | None = None
        self._is_given_up = False

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for the next part."""
        return self._timeout is not None

    async def next(self, receive: Receive) -> Message:
        """Returns the next message. Raises BodyTooSlow if the body does not keep coming."""
        loop = asyncio.get_running_loop()
        self.last_byte = loop.time()
        self._part_began += self.last_byte - self._left
        try:
            async with asyncio.timeout_at(self._part_began + _PART_S) as self._timeout:
                if self._is_given_up:
                    self.give_up()
                message = await receive()
        except TimeoutError:
            raise BodyTooSlow(
                f"the body stopped arriving: send at least {_PART_BYTES} bytes of it in each "
                f"{_PART_S:g} s"
            ) from None
        finally:
            self._timeout, self._left = None, loop.time()
        self._arrived(len(message.get("body", b"")))
        return message

    def give_up(self) -> None:
        """Ends the wait for the rest of the body."""
        self._is_given_up = True
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def _arrived(self, size: int) -> None:
        if size:
            self.last_byte = asyncio.get_running_loop().time()
        self._missing -= size
        if self._missing <= 0:
            self._part_began, self._missing = self.last_byte, _PART_BYTES
