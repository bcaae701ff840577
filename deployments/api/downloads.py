"""Downloads, which last as long as their clients read: how many there may be, and which make room.

Owners share them as they share the queue. A client that reads nothing costs itself nothing, so once
others need its place, the one that has stood still the longest loses it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from math import inf

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from deployments.api.uploads import transfer_s
from deployments.batches.sharing import has_room
from deployments.batches.states import EVERYONE
from deployments.core.errors import Overloaded

_MOST = 32
_RETRY_AFTER_S = 10.0
_STANDS_STILL_S = 10.0


class Downloads:
    """The downloads of a router. For one asyncio loop."""

    def __init__(self) -> None:
        self._places: set[Place] = set()

    def enter(self, owner: str) -> Place:
        """Returns a place for a download; `leave` must follow. Raises Overloaded if there is none."""
        held = Counter(place.owner for place in self._places)
        if not has_room(held, owner, _MOST) and not self._make_room(held, owner):
            yours = "" if owner == EVERYONE else f", {held[owner]} of them yours"
            raise Overloaded(
                f"{held.total()} downloads are under way at this router{yours}; retry later",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._places.add(place := Place(owner))
        return place

    def leave(self, place: Place) -> None:
        """Ends a download. May be called again."""
        self._places.discard(place)

    def _make_room(self, held: Counter[str], owner: str) -> bool:
        """Gives up the download that has stood still the longest, of those that leave the owner room."""
        still_before = asyncio.get_running_loop().time() - _STANDS_STILL_S
        still = [
            place
            for place in self._places
            if place.still_since <= still_before
            and has_room(held - Counter([place.owner]), owner, _MOST)
        ]
        if (slowest := min(still, key=lambda place: place.still_since, default=None)) is None:
            return False
        slowest.give_up()
        self.leave(slowest)
        return True


class Place:
    """The place of one download, and since when its client has read nothing."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.still_since = inf
        self.timeout = asyncio.timeout(None)

    def give_up(self) -> None:
        """Ends the download, which has begun."""
        with suppress(RuntimeError):  # it is ending anyway: its own time is up
            self.timeout.reschedule(asyncio.get_running_loop().time())

    def watched(self, send: Send) -> Send:
        """Returns ``send``, which notes when it has to wait for the client."""

        async def send_and_watch(message: Message) -> None:
            self.still_since = asyncio.get_running_loop().time()
            try:
                await send(message)
            finally:
                self.still_since = inf

        return send_and_watch


class Download(StreamingResponse):
    """A file on its way. A client that takes too long gets only a part of it."""

    def __init__(
        self, chunks: AsyncIterator[bytes], size: int, downloads: Downloads, place: Place
    ) -> None:
        headers = {"content-length": str(size)}
        super().__init__(chunks, headers=headers, media_type="application/jsonl")
        self._size = size
        self._downloads = downloads
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        within_s = transfer_s(self._size)
        try:
            with suppress(TimeoutError):  # the server then closes the connection
                async with self._place.timeout as timeout:
                    timeout.reschedule(asyncio.get_running_loop().time() + within_s)
                    await super().__call__(scope, receive, self._place.watched(send))
        finally:
            self._downloads.leave(self._place)
