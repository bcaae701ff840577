"""Which texts may have killed a replica, and which did.

A replica's process takes everything that was with it into death, so a death makes a suspect of every
text that was there and proves nothing. The suspects are tried one by one, each in a forward pass of its
own; the one whose trial ends in another death is blocked. Knows nothing of Ray; the clock is passed in.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from enum import StrEnum

from deployments.embedding.batch import TokenBatch


class Suspicion(StrEnum):
    """What is held against a text."""

    NONE = "none"
    SUSPECTED = "suspected"
    BLOCKED = "blocked"


def fingerprint(batch: TokenBatch, row: int) -> str:
    """Returns a hash of one text's token ids (32 hex digits)."""
    return hashlib.blake2b(batch.text(row).tobytes(), digest_size=16).hexdigest()


class Suspects:
    """Remembers texts by their fingerprints: at most ``most`` of them, ``keep_s`` seconds each."""

    def __init__(self, keep_s: float = 3_600.0, most: int = 10_000) -> None:
        self._keep_s = keep_s
        self._most = most
        self._known: OrderedDict[str, tuple[Suspicion, float]] = OrderedDict()

    def is_empty(self, now: float) -> bool:
        """Whether nothing is held against any text now."""
        self._forget_old(now)
        return not self._known

    def suspect(self, texts: Iterable[str], now: float) -> None:
        """These were with a replica that died."""
        for text in texts:
            if self.suspicion(text, now) is not Suspicion.BLOCKED:
                self._note(text, Suspicion.SUSPECTED, now)

    def block(self, text: str, now: float) -> None:
        """This one was alone in the forward pass when a replica died."""
        self._note(text, Suspicion.BLOCKED, now)

    def clear(self, texts: Iterable[str]) -> None:
        """These have been through a forward pass of their own, or were refused for another reason."""
        for text in texts:
            self._known.pop(text, None)

    def suspicion(self, text: str, now: float) -> Suspicion:
        """Returns what is held against a text now."""
        self._forget_old(now)
        suspicion, _ = self._known.get(text, (Suspicion.NONE, now))
        return suspicion

    def _forget_old(self, now: float) -> None:
        while self._known:  # the oldest stands first
            text, (_, since) = next(iter(self._known.items()))
            if now - since <= self._keep_s:
                return
            del self._known[text]

    def _note(self, text: str, suspicion: Suspicion, now: float) -> None:
        self._known[text] = (suspicion, now)
        self._known.move_to_end(text)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
