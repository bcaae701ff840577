"""The versions of one model: during a rolling update old and new replicas answer side by side.

A version is an embedding space. Every call names the one that its token ids were made for, and a
replica of another refuses it; the texts are then prepared anew, as that replica's version wants them.
So each answer comes from one version, and says which.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from deployments.client.coalescing import Call, Coalescer
from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import ModelConfig
from deployments.core.background_loader import BackgroundLoader
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import ModelUnavailable
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.wire.calls import OtherVersion

_KNOCKS = 5
_KNOCK_AGAIN_S = 0.1


class Moved(Exception):
    """A call has met a replica of another version."""

    def __init__(self, version: OtherVersion) -> None:
        super().__init__(version)
        self.version = version


async def insistent(call: Call, batch: TokenBatch, lane: Lane, deadline: float) -> Encoded:
    """Makes one of a request's many calls; knocks at other replicas before it raises Moved.

    In the middle of an update hardly any request of many calls would meet one version alone.
    """
    for _ in range(_KNOCKS):
        with suppress(Moved):
            return await call(batch, lane, deadline)
        await asyncio.sleep(_KNOCK_AGAIN_S)
    return await call(batch, lane, deadline)


@dataclass(frozen=True)
class Version:
    """What prepares texts for one version, and merges calls to it."""

    preprocessor: Preprocessor
    space: str
    coalescer: Coalescer


class Versions:
    """The version that the config names, and those that replicas turned out to have."""

    def __init__(
        self,
        config: ModelConfig,
        load: Callable[[ModelConfig], Preprocessor],
        call: Callable[[Preprocessor], Call],
    ) -> None:
        """Begins to load the config's own; ``call`` makes the calls to a version."""
        self._name = config.name
        self._load = load
        self._call = call
        self._own: BackgroundLoader[Version] = BackgroundLoader(
            lambda: self._made(load(config)), config.name
        )
        self._latest: Version | None = None
        self._others: dict[str, BackgroundLoader[Version]] = {}

    @property
    def latest(self) -> Version | None:
        """The one that is to be tried first; None while no files have been read."""
        return self._latest or self._own.value

    @property
    def is_unreadable(self) -> bool:
        """Whether the config's own version has failed to be read, and no other is known."""
        return self.latest is None and self._own.failure is not None

    async def ready(self, timeout_s: float) -> Version:
        """Returns the latest, waiting while it is read. Raises ModelUnavailable with the reason."""
        if self.latest is None and self._own.failure is None:
            await self._own.settled(timeout_s)
        return self._latest or self._own.get()

    async def move(self, other: OtherVersion, timeout_s: float) -> Version:
        """Returns the version that a replica has, which is the latest from now on.

        All calls wait for one reading of its files. Raises ModelUnavailable with the reason, such as
        that they are not what the replica has loaded.
        """
        own = self._own.value
        if own is not None and own.space == other.space:
            self._latest = own
            return own
        loader = self._reading(other)
        await loader.settled(timeout_s)
        self._latest = loader.get()
        return self._latest

    def close(self) -> None:
        """Gives up loading, if that still goes on."""
        for loader in (self._own, *self._others.values()):
            loader.stop()

    def _reading(self, other: OtherVersion) -> BackgroundLoader[Version]:
        """One that failed is read again for the next call, not before: no replica may have it then."""
        loader = self._others.get(other.space)
        if loader is None or loader.failure is not None:
            loader = BackgroundLoader(lambda: self._read(other), self._name, retry_s=None)
            self._others[other.space] = loader
        return loader

    def _read(self, other: OtherVersion) -> Version:
        found = self._made(self._load(other.config))
        if found.space != other.space:
            raise ModelUnavailable("its files have changed since a replica loaded them")
        return found

    def _made(self, preprocessor: Preprocessor) -> Version:
        return Version(
            preprocessor, space_id(preprocessor.spec), Coalescer(self._call(preprocessor))
        )
