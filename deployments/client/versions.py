"""The versions of one model: during a rolling update old and new replicas answer side by side.

A version is an embedding space. Every call names the one that its token ids were made for, and a
replica of another refuses it; the texts are then prepared anew, as that replica's version wants them.
So each answer comes from one version, and says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import ModelConfig
from deployments.core.background_loader import BackgroundLoader
from deployments.core.errors import ModelUnavailable
from deployments.core.models.space import space_id
from deployments.wire.calls import OtherVersion


@dataclass(frozen=True)
class Version:
    """What prepares texts for one version, and the space of its vectors."""

    preprocessor: Preprocessor
    space: str


class Load(Protocol):
    """As `load_preprocessor`."""

    def __call__(self, config: ModelConfig, space: str | None = None) -> Preprocessor:
        """Returns what prepares texts for the model of a config, of this space if it is given."""


class Versions:
    """The version that the config names, and those that replicas turned out to have."""

    def __init__(self, config: ModelConfig, load: Load) -> None:
        """Begins to load the config's own version."""
        self._name = config.name
        self._load = load
        self._own: BackgroundLoader[Version] = BackgroundLoader(
            lambda: _version(load(config)), config.name
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
        version = _version(self._load(other.config, other.space))
        if version.space != other.space:
            raise ModelUnavailable("its files have changed since a replica loaded them")
        return version


def _version(preprocessor: Preprocessor) -> Version:
    return Version(preprocessor, space_id(preprocessor.spec))
