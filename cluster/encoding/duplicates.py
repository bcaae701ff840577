"""Ids that stand in several parts, found on disk: memory does not grow with the corpus.

What is kept of an id is its digest and its part, 20 bytes, in files of one range of digests each. One
file at a time then shows which parts share an id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 16
_BUCKETS = 256
_HELD = 1 << 18
_ID = np.dtype([("high", "<u8"), ("low", "<u8"), ("part", "<u4")])
_REPEATED = np.dtype([*_ID.descr, ("first", "<u4")])

Entries = npt.NDArray[Any]


def digest(name: object) -> bytes:
    """Returns 16 bytes that stand for an id. Ids are the same when they read the same."""
    data = str(name).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def digests(names: Iterable[object]) -> bytes:
    """Returns the digests of distinct ids, one behind the other."""
    return b"".join(digest(name) for name in dict.fromkeys(names))


class Ledger:
    """Which parts hold which ids."""

    def __init__(self, folder: Path, parts: int) -> None:
        """``folder`` holds the ids of ``parts`` parts while this is in use."""
        self._parts = parts
        self._ids = _Spill(folder / "ids", _ID)
        self._again = _Spill(folder / "again", _REPEATED)

    def add(self, part: int, found: bytes) -> None:
        """Takes the `digests` of one part, which are distinct."""
        words = np.frombuffer(found, "<u8").reshape(-1, 2)
        entries = np.empty(len(words), _ID)
        entries["high"], entries["low"], entries["part"] = words[:, 0], words[:, 1], part
        self._ids.add((words[:, 0] >> np.uint64(56)).astype(np.int64), entries)

    def repeated(self) -> Iterator[tuple[int, dict[bytes, int]]]:
        """Yields each part with ids that an earlier part has, and that part's number by digest."""
        for entries in self._ids:
            found = _repeated(entries)
            self._again.add(found["part"].astype(np.int64) * _BUCKETS // self._parts, found)
        for entries in self._again:
            entries.sort(order="part", kind="stable")
            cuts = np.flatnonzero(np.diff(entries["part"])) + 1
            for start, stop in pairwise([0, *cuts.tolist(), len(entries)]):
                yield int(entries["part"][start]), _by_digest(entries[start:stop])


class _Spill:
    """Entries in numbered files. Holds few of them in memory."""

    def __init__(self, folder: Path, kind: np.dtype[Any]) -> None:
        folder.mkdir()
        self._folder = folder
        self._kind = kind
        self._held: list[tuple[npt.NDArray[np.int64], Entries]] = []
        self._count = 0

    def add(self, buckets: npt.NDArray[np.int64], entries: Entries) -> None:
        self._held.append((buckets, entries))
        self._count += len(entries)
        if self._count >= _HELD:
            self._flush()

    def __iter__(self) -> Iterator[Entries]:
        self._flush()
        for number in range(_BUCKETS):
            if (file := self._folder / str(number)).exists():
                yield np.fromfile(file, self._kind)

    def _flush(self) -> None:
        if not self._held:
            return
        buckets = np.concatenate([numbers for numbers, _ in self._held])
        entries = np.concatenate([of_part for _, of_part in self._held])
        order = np.argsort(buckets, kind="stable")
        cuts = np.searchsorted(buckets[order], np.arange(_BUCKETS + 1))
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            with (self._folder / str(number)).open("ab") as file:
                file.write(entries[order[cuts[number] : cuts[number + 1]]].tobytes())
        self._held, self._count = [], 0


def _repeated(entries: Entries) -> Entries:
    """The entries of which an earlier part has the id, with the first such part."""
    entries = entries[np.lexsort((entries["part"], entries["low"], entries["high"]))]
    new = np.ones(len(entries), bool)
    new[1:] = (np.diff(entries["high"]) != 0) | (np.diff(entries["low"]) != 0)
    firsts = entries["part"][np.flatnonzero(new)[np.cumsum(new) - 1]]
    again = entries["part"] > firsts
    found = np.empty(int(again.sum()), _REPEATED)
    for name in ("high", "low", "part"):
        found[name] = entries[name][again]
    found["first"] = firsts[again]
    return found


def _by_digest(entries: Entries) -> dict[bytes, int]:
    words = np.stack([entries["high"], entries["low"]], axis=1).astype("<u8").tobytes()
    keys = (words[at : at + DIGEST_BYTES] for at in range(0, len(words), DIGEST_BYTES))
    return dict(zip(keys, entries["first"].tolist(), strict=True))
