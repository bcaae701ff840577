"""What each router of the service has told the others last, through Ray's key-value store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

_GONE_AFTER_S = 5.0  # without a beat
_FORGOTTEN_AFTER_S = 60.0

Taken = Mapping[str, int]


class Store(Protocol):
    """The part of `KeyValueStore` that is needed here."""

    def put(self, key: str, value: str) -> None:
        """Writes a value."""

    def get(self, key: str) -> bytes | None:
        """Returns a value, if it is there."""

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys that begin with ``prefix``."""

    def delete(self, key: str) -> None:
        """Removes a key."""


@dataclass(frozen=True)
class _Word:
    """What a router has said, and when this router has first seen it."""

    beat: int
    taken: Taken
    since: float


class Peers:
    """This router among the others. Blocks while the store answers, and raises what it raises."""

    def __init__(self, store: Store, folder: str, name: str) -> None:
        """``name`` is this router's, new with each start; all routers of a service share ``folder``."""
        self._store = store
        self._folder = folder
        self._own = folder + name
        self._beat = 0
        self._words: dict[str, _Word] = {}

    def exchange(self, taken: Taken, now: float) -> dict[str, Taken]:
        """Tells the others what this router has taken; returns what each of those that live has.

        A router lives as long as it keeps telling. No clock of another machine is compared.
        """
        self._beat += 1
        self._store.put(self._own, json.dumps([self._beat, dict(taken)]))
        keys = set(self._store.keys(self._folder)) - {self._own}
        self._words = {key: word for key in keys if (word := self._word(key, now)) is not None}
        return {
            key: word.taken
            for key, word in self._words.items()
            if now - word.since <= _GONE_AFTER_S
        }

    def _word(self, key: str, now: float) -> _Word | None:
        value = self._store.get(key)
        if value is None:
            return None
        beat, taken = json.loads(value)
        before = self._words.get(key)
        if before is None or before.beat != beat:
            return _Word(beat, taken, now)
        if now - before.since > _FORGOTTEN_AFTER_S:
            self._store.delete(key)
        return before
