"""Which texts may have killed a replica, and which did.

A replica's process takes everything that was with it into death, so a death accuses every text that
was there and convicts none. The accused are tried one by one, each in a forward pass of its own; the
one whose trial ends in another death is barred. Knows nothing of Ray; the clock is passed in.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable
from enum import StrEnum

from deployments.embedding.batch import TokenBatch


class Standing(StrEnum):
    """What is held against a text."""

    FREE = "free"
    ACCUSED = "accused"
    BARRED = "barred"


def fingerprint(batch: TokenBatch, row: int) -> str:
    """Returns a hash of one text's token ids (32 hex digits)."""
    return hashlib.blake2b(batch.text(row).tobytes(), digest_size=16).hexdigest()


class Suspects:
    """Remembers texts by their fingerprints: at most ``most`` of them, ``keep_s`` seconds each."""

    def __init__(self, keep_s: float = 3_600.0, most: int = 10_000) -> None:
        self._keep_s = keep_s
        self._most = most
        self._known: OrderedDict[str, tuple[Standing, float]] = OrderedDict()

    def is_empty(self, now: float) -> bool:
        """Whether nothing is held against any text now."""
        self._forget_old(now)
        return not self._known

    def accuse(self, texts: Iterable[str], now: float) -> None:
        """These were with a replica that died."""
        for text in texts:
            if self.standing(text, now) is not Standing.BARRED:
                self._note(text, Standing.ACCUSED, now)

    def bar(self, text: str, now: float) -> None:
        """This one was alone in the forward pass when a replica died."""
        self._note(text, Standing.BARRED, now)

    def acquit(self, texts: Iterable[str]) -> None:
        """These have been through a forward pass of their own, or were refused for another reason."""
        for text in texts:
            self._known.pop(text, None)

    def standing(self, text: str, now: float) -> Standing:
        """Returns what is held against a text now."""
        self._forget_old(now)
        standing, _ = self._known.get(text, (Standing.FREE, now))
        return standing

    def _forget_old(self, now: float) -> None:
        while self._known:  # the oldest stands first
            text, (_, since) = next(iter(self._known.items()))
            if now - since <= self._keep_s:
                return
            del self._known[text]

    def _note(self, text: str, standing: Standing, now: float) -> None:
        self._known[text] = (standing, now)
        self._known.move_to_end(text)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
