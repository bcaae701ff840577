"""Keeps every id once: rows whose id an earlier part has move from the vectors to the rejects.

Which parts share an id is found on disk, so memory does not grow with the corpus. An id is kept as its
digest and the number of its part, 20 bytes, in 256 files by the first byte of the digest; each file is
then sorted in memory. SQLite would be less code, but takes 4 times as long and 3 times the disk
(50 million ids: 231 s and 2.7 GB, here 61 s and 1.0 GB).
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

from cluster.corpus.formats.files import check_unchanged
from cluster.corpus.formats.sources import Source, source_of
from cluster.corpus.plan.parts import Part
from cluster.corpus.read.rows import column_values, read_part
from cluster.corpus.rejects import Reject, count_kinds, duplicate_id, excerpt, reject_table
from cluster.corpus.work import Work
from cluster.corpus.write.manifest import Counts
from cluster.corpus.write.parquet import ids_of

DIGEST_BYTES = 16
_FILES = 256
_BUFFERED_ENTRIES = 1 << 18
_ID = np.dtype([("high", "<u8"), ("low", "<u8"), ("part", "<u4")])
_DUPLICATE = np.dtype([*_ID.descr, ("first", "<u4")])

Entries = npt.NDArray[Any]


def digest(row_id: object) -> bytes:
    """Returns 16 bytes that stand for an id. Ids are equal if their text is: 7 and "7" are."""
    data = str(row_id).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def digests(ids: Iterable[object]) -> bytes:
    """Returns the digests of the distinct ids, concatenated."""
    return b"".join(map(digest, dict.fromkeys(ids)))


class IdIndex:
    """Finds which parts share ids, on disk."""

    def __init__(self, folder: Path, parts: int) -> None:
        """``folder`` holds the ids of ``parts`` parts while the index is in use."""
        self._parts = parts
        self._ids = _PartitionedEntries(folder / "ids", _ID)
        self._duplicates = _PartitionedEntries(folder / "duplicates", _DUPLICATE)

    def add(self, part: int, ids: bytes) -> None:
        """Adds the `digests` of one part, which are distinct."""
        words = np.frombuffer(ids, "<u8").reshape(-1, 2)
        entries = np.empty(len(words), _ID)
        entries["high"], entries["low"], entries["part"] = words[:, 0], words[:, 1], part
        self._ids.add((words[:, 0] >> np.uint64(56)).astype(np.int64), entries)

    def duplicates(self) -> Iterator[tuple[int, dict[bytes, int]]]:
        """Yields each part that repeats ids of earlier parts, with the first part by digest."""
        for entries in self._ids:
            duplicates = _find_duplicates(entries)
            files = duplicates["part"].astype(np.int64) * _FILES // self._parts
            self._duplicates.add(files, duplicates)
        for entries in self._duplicates:
            entries.sort(order="part", kind="stable")
            cuts = np.flatnonzero(np.diff(entries["part"])) + 1
            for start, stop in pairwise([0, *cuts.tolist(), len(entries)]):
                yield int(entries["part"][start]), _first_by_digest(entries[start:stop])


class _PartitionedEntries:
    """Entries in numbered files, with a bounded buffer in memory."""

    def __init__(self, folder: Path, kind: np.dtype[Any]) -> None:
        folder.mkdir()
        self._folder = folder
        self._kind = kind
        self._buffer: list[tuple[npt.NDArray[np.int64], Entries]] = []
        self._buffered = 0

    def add(self, files: npt.NDArray[np.int64], entries: Entries) -> None:
        """``files`` holds the number of each entry's file."""
        self._buffer.append((files, entries))
        self._buffered += len(entries)
        if self._buffered >= _BUFFERED_ENTRIES:
            self._flush()

    def __iter__(self) -> Iterator[Entries]:
        self._flush()
        for number in range(_FILES):
            if (file := self._folder / str(number)).exists():
                yield np.fromfile(file, self._kind)

    def _flush(self) -> None:
        if not self._buffer:
            return
        files = np.concatenate([numbers for numbers, _ in self._buffer])
        entries = np.concatenate([added for _, added in self._buffer])
        order = np.argsort(files, kind="stable")
        cuts = np.searchsorted(files[order], np.arange(_FILES + 1))
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            with (self._folder / str(number)).open("ab") as file:
                file.write(entries[order[cuts[number] : cuts[number + 1]]].tobytes())
        self._buffer, self._buffered = [], 0


def _find_duplicates(entries: Entries) -> Entries:
    """Returns the entries whose id an earlier part has, with the first such part."""
    entries = entries[np.lexsort((entries["part"], entries["low"], entries["high"]))]
    is_new = np.ones(len(entries), bool)
    is_new[1:] = (np.diff(entries["high"]) != 0) | (np.diff(entries["low"]) != 0)
    firsts = entries["part"][np.flatnonzero(is_new)[np.cumsum(is_new) - 1]]
    is_later = entries["part"] > firsts
    duplicates = np.empty(int(is_later.sum()), _DUPLICATE)
    for name in ("high", "low", "part"):
        duplicates[name] = entries[name][is_later]
    duplicates["first"] = firsts[is_later]
    return duplicates


def _first_by_digest(entries: Entries) -> dict[bytes, int]:
    words = np.stack([entries["high"], entries["low"]], axis=1).astype("<u8").tobytes()
    keys = (words[at : at + DIGEST_BYTES] for at in range(0, len(words), DIGEST_BYTES))
    return dict(zip(keys, entries["first"].tolist(), strict=True))


def drop_duplicates(work: Work, parts: list[Part], index: IdIndex) -> Counts:
    """Rewrites the parts that repeat ids of earlier ones, and returns the change of the counts.

    Runs once all parts are committed. If the job is killed here, its next run finds the remaining
    duplicates. Raises JobError if the output cannot be written, or an input file has changed.
    """
    change, file, source = Counts(), None, None
    for number, firsts in index.duplicates():
        part = parts[number]
        if file != part.file:
            file, source = part.file, source_of(work.inputs, part.file)
        first_files = {key: parts[first].file.name for key, first in firsts.items()}
        change += _drop_from_part(work, part, first_files, source)
    return change


def _drop_from_part(
    work: Work, part: Part, first_files: Mapping[bytes, str], source: Source | None
) -> Counts:
    """``first_files`` names, by digest, the file that has the id first."""
    output = work.output
    before = output.committed_counts(part.name, work.identity)
    assert before is not None
    table, rejects = output.vectors(part.name), output.rejects(part.name)
    kept = table.filter(pa.array([digest(row_id) not in first_files for row_id in ids_of(table)]))
    new_rejects = _duplicate_rows(work, part, first_files, rejects, source)
    rejects = pa.concat_tables([rejects, new_rejects])
    after = replace(
        before,
        documents=before.rows - rejects.num_rows,
        written=kept.num_rows,
        rejected=rejects.num_rows,
        reasons=count_kinds(rejects["reason"].to_pylist()),
    )
    record = work.record(part.file, after)
    output.commit(part.name, kept, rejects.sort_by("position"), record)
    return after.minus(before)


def _duplicate_rows(
    work: Work, part: Part, first_files: Mapping[bytes, str], rejects: Any, source: Source | None
) -> Any:
    """The rows with these ids that are not among the rejects yet, as a table of rejects."""
    settings = work.settings
    assert settings.id_column is not None
    rows = read_part(work.inputs, part, settings.text_column, work.carried, source)
    check_unchanged(work.inputs, part.file)
    rejected = set(rejects["position"].to_pylist())
    ids = column_values(rows.carried[settings.id_column])
    duplicates = []
    for position, row_id, text in zip(rows.positions, ids, rows.texts, strict=True):
        first = first_files.get(digest(row_id))
        if first is not None and position not in rejected:
            reason = duplicate_id(first)
            duplicates.append(Reject(str(row_id), part.file.name, position, reason, excerpt(text)))
    return reject_table(duplicates)
