"""Ids that stand in several parts, found on disk: memory does not grow with the corpus.

What is kept of an id is its digest and its part, 20 bytes, in files of one range of digests each. One
file at a time then shows which parts share an id.

Every id once: rows whose id an earlier part has move from the vectors to the rejects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from cluster.corpus import rejects as vetting
from cluster.corpus.plan.inputs import check_unchanged
from cluster.corpus.plan.parts import Part
from cluster.corpus.read.reading import read_part, texts_of
from cluster.corpus.read.sources import Source, source_of
from cluster.corpus.work import Work
from cluster.corpus.write.manifest import Counts
from cluster.corpus.write.output import ids_of, reject_table

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


def drop_repeated(work: Work, parts: list[Part], ledger: Ledger) -> Counts:
    """Rewrites the parts that repeat ids of earlier ones, and returns what that changes in sum.

    Done once all parts are there. A job that is killed here finds the rest on its next run. Raises
    JobError when the output cannot be written, or a file has changed.
    """
    change, file, source = Counts(), None, None
    for number, repeated in ledger.repeated():
        part = parts[number]
        if file != part.file:
            file, source = part.file, source_of(work.inputs, part.file)
        names = {key: parts[first].file.name for key, first in repeated.items()}
        change += _drop(work, part, names, source)
    return change


def _drop(work: Work, part: Part, names: Mapping[bytes, str], source: Source | None) -> Counts:
    """``names`` are those of the files that have these ids before, by digest."""
    output = work.output
    before = output.done(part.name, work.identity)
    assert before is not None
    table, rejects = output.vectors(part.name), output.rejects(part.name)
    kept = table.filter(pa.array([digest(name) not in names for name in ids_of(table)]))
    rejects = pa.concat_tables([rejects, _rejects(work, part, names, rejects, source)])
    after = replace(
        before,
        documents=before.rows - rejects.num_rows,
        written=kept.num_rows,
        rejected=rejects.num_rows,
    )
    output.commit(part.name, kept, rejects.sort_by("position"), work.identity, after)
    return Counts(
        documents=after.documents - before.documents,
        written=after.written - before.written,
        rejected=after.rejected - before.rejected,
    )


def _rejects(
    work: Work, part: Part, names: Mapping[bytes, str], found: Any, source: Source | None
) -> Any:
    """The rows with these ids that are not among the rejects yet."""
    settings = work.settings
    assert settings.id_column is not None
    rows = read_part(work.inputs, part, settings.text_column, work.carried, source)
    check_unchanged(work.inputs, part.file)
    there = set(found["position"].to_pylist())
    ids = texts_of(rows.carried[settings.id_column])
    new = []
    for position, own, text in zip(rows.positions, ids, rows.texts, strict=True):
        earlier = names.get(digest(own))
        if earlier is not None and position not in there:
            reason = vetting.repeated(earlier)
            new.append((str(own), part.file.name, position, reason, vetting.shown(text)))
    return reject_table(new)
