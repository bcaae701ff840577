"""A corpus in parts: what is encoded, committed and found again as a whole.

Where parts begin depends on the files and on the size of a part alone, so a job that was killed
finds on its next run what it has done.

Which parts one worker does one after the other, so that a file is not read anew for each.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.plan.inputs import InputFile
from cluster.corpus.plan.schemas import check_columns, sampled_schema, unified_schema
from cluster.corpus.read.records import bytes_per_line, csv_header, csv_records, cut_file, lines
from cluster.corpus.read.sources import LineSource, group_starts
from cluster.corpus.settings import Settings

# a part's vectors are in memory several times: 268 MB each at 4,096 dimensions
_MOST_ROWS = 16_384
_READERS = 16


@dataclass(frozen=True)
class Part:
    """A run of records of one file: row numbers in Parquet, byte offsets in other formats.

    ``rows`` are the most that are taken (for ``--limit``), ``weight`` its share of the input in
    bytes. A CSV part that starts at 0 starts with the header. ``entry`` is where reading has to begin
    to get to ``start``: at 0 of a compressed file, at the first row of a row group.
    """

    file: InputFile
    start: int
    stop: int
    weight: int
    rows: int | None = None
    entry: int | None = None

    @property
    def read_from(self) -> int:
        """``entry``, which is ``start`` where nothing else is said."""
        return self.start if self.entry is None else self.entry

    @property
    def name(self) -> str:
        """The name of the part's output file, the same on every run."""
        return f"part-{self.file.digest}-{self.start:014d}.parquet"

    def as_row(self) -> dict[str, Any]:
        """Returns plain values, as Ray Data carries them."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Part:
        """The inverse of `as_row`."""
        return cls(**{**row, "file": InputFile(**row["file"])})


@dataclass(frozen=True)
class Plan:
    """A corpus, or a file of it: its parts in order, and the Arrow schema of the columns to carry."""

    parts: list[Part]
    carried: Any


def plan(filesystem: Any, files: Sequence[InputFile], settings: Settings) -> Plan:
    """Returns the parts of all files, and one schema for them all. Each file is opened once.

    Raises JobError for a file that cannot be read or lacks a column, for columns that no type holds,
    for ids that are none, and for an empty corpus.
    """
    tables = files[0].format == "parquet"
    sampled = None if tables else sampled_schema(filesystem, files, settings)
    with ThreadPoolExecutor(_READERS) as pool:
        planned = list(pool.map(lambda file: _planned(filesystem, file, settings), files))
    parts = [part for of_file in planned for part in of_file.parts]
    if settings.limit is not None:
        parts = list(_limited(filesystem, parts, settings.limit))
    if not parts:
        raise JobError(f"{settings.input} holds no rows")
    # a file without rows often tells of no types either
    found = {f.path: p.carried for f, p in zip(files, planned, strict=True) if p.parts}
    return Plan(parts, unified_schema(found, settings) if tables else sampled)


def _planned(filesystem: Any, file: InputFile, settings: Settings) -> Plan:
    try:
        if file.format == "parquet":
            return _plan_parquet(filesystem, file, settings)
        return Plan(_parts_of_lines(filesystem, file, settings), None)
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError) as error:
        raise JobError(f"{file.path} cannot be read: {error}") from error


def _parts_of_lines(filesystem: Any, file: InputFile, settings: Settings) -> list[Part]:
    if file.format == "csv" and file.size:
        check_columns(csv_header(filesystem, file), settings, file.path)
    most_bytes = int(_MOST_ROWS * bytes_per_line(filesystem, file))
    cuts = cut_file(filesystem, file, min(settings.part_bytes, most_bytes))
    entry = 0 if file.compression else None
    parts = [Part(file, a, b, b - a, entry=entry) for a, b in pairwise(cuts)]
    # a header alone, or blank lines
    is_empty = len(parts) == 1 and not _count(LineSource(filesystem, file), parts[0])
    return [] if is_empty else parts


def _plan_parquet(filesystem: Any, file: InputFile, settings: Settings) -> Plan:
    with filesystem.open_input_file(file.path) as handle:
        meta = pq.ParquetFile(handle).metadata
    schema = meta.schema.to_arrow_schema()
    check_columns(schema.names, settings, file.path)
    _check_text(schema.field(settings.text_column).type, settings.text_column, file.path)
    step = max(1, min(_MOST_ROWS, int(settings.part_bytes / _bytes_per_row(meta, settings))))
    cuts = [*range(0, meta.num_rows, step), meta.num_rows]
    each = file.size / max(1, meta.num_rows)
    firsts = group_starts(meta)
    parts = [
        Part(file, a, b, int((b - a) * each), entry=firsts[bisect_right(firsts, a) - 1])
        for a, b in pairwise(cuts)
    ]
    return Plan(parts, pa.schema([schema.field(column) for column in settings.columns]))


def _bytes_per_row(meta: Any, settings: Settings) -> float:
    size: float = 0
    for group in range(meta.num_row_groups):
        columns = (meta.row_group(group).column(i) for i in range(meta.num_columns))
        size += sum(
            c.total_uncompressed_size for c in columns if c.path_in_schema == settings.text_column
        )
    return max(1.0, size / float(max(1, meta.num_rows)))


def _check_text(kind: Any, column: str, where: str) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(test(kind) for test in text):
        raise JobError(f"{where}: column {column!r} is {kind}, not text; choose --text-column")


def _limited(filesystem: Any, parts: Iterable[Part], limit: int) -> Iterator[Part]:
    left = limit
    for file, of_file in groupby(parts, lambda part: part.file):
        source = LineSource(filesystem, file)
        for part in of_file:
            if left <= 0:
                return
            if file.format == "parquet":
                rows = part.stop - part.start
                yield replace(part, stop=part.start + min(rows, left))
            else:
                rows = _count(source, part)
                yield part if rows <= left else replace(part, rows=left)
            left -= rows


def _count(source: LineSource, part: Part) -> int:
    data = source.read(part.start, part.stop)
    if part.file.format == "csv":
        return sum(1 for _ in csv_records(data, part.start)) - (part.start == 0)
    return sum(1 for _ in lines(data, part.start))


Stretch = list[tuple[int, Part]]
# reading n stretches of a file costs (n + 1) / 2 times as much as reading it once
_MOST = 8


def stretches(parts: Sequence[Part], wanted: int) -> list[Stretch]:
    """Returns all parts, each with its number, in runs that one worker reads in order.

    Parts that are read from one place (see `Part.entry`) stay together, but for what it takes to have
    about ``wanted`` stretches. How they are cut changes nothing about the parts and their names.
    """
    families = [
        list(family)
        for _, family in groupby(enumerate(parts), lambda part: (part[1].file, part[1].read_from))
    ]
    each = min(_MOST, math.ceil(wanted / max(1, len(families))))
    return [stretch for family in families for stretch in _cut(family, each)]


def _cut(family: Stretch, pieces: int) -> Iterator[Stretch]:
    count = min(max(1, pieces), len(family))
    cuts = [len(family) * n // count for n in range(count + 1)]
    return (family[start:stop] for start, stop in pairwise(cuts))
