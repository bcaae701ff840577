"""Cuts a corpus into parts: the units that are encoded, committed and resumed as a whole.

Where a part begins depends only on the files and on ``--part-mb``, so a job that was killed finds on
its next run which parts are done. Parts are grouped into runs, which one worker reads in sequence, so
that a compressed file is not decompressed again for each of its parts.
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
from cluster.corpus.formats.files import InputFile
from cluster.corpus.formats.records import (
    bytes_per_line,
    csv_header,
    csv_records,
    cut_file,
    part_size,
    text_lines,
)
from cluster.corpus.formats.sources import LineSource, group_starts
from cluster.corpus.plan.schemas import (
    check_columns,
    check_parquet_types,
    sampled_schema,
    unified_schema,
)
from cluster.corpus.settings import Settings

# a worker holds a part's vectors several times: 268 MB each at 4,096 dimensions
_MAX_ROWS = 16_384
_READERS = 16
# reading a file in n runs costs (n + 1) / 2 times as much as reading it once
_MAX_RUNS_PER_START = 8
PART_NAME = (
    r"part-([0-9a-f]{12})-\d{14,}\.parquet"  # see `Part.name`; the group is the file's digest
)


@dataclass(frozen=True)
class Part:
    """Consecutive records of one file: row numbers in Parquet, byte offsets in other formats.

    ``rows`` is the most rows to take (for ``--limit``), ``weight`` the part's share of the input in
    bytes. A CSV part that starts at 0 starts with the header. ``entry`` is where reading has to begin
    to reach ``start``: 0 in a compressed file, the first row of the row group in Parquet.
    """

    file: InputFile
    start: int
    stop: int
    weight: int
    rows: int | None = None
    entry: int | None = None

    @property
    def read_from(self) -> int:
        """``entry``, or ``start`` if there is none."""
        return self.start if self.entry is None else self.entry

    @property
    def name(self) -> str:
        """The name of the part's output file, the same on every run while the input is unchanged."""
        return f"part-{self.file.digest}-{self.start:014d}.parquet"

    def as_row(self) -> dict[str, Any]:
        """Returns plain values, as Ray Data carries them."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Part:
        """The inverse of `as_row`."""
        return cls(**{**row, "file": InputFile(**row["file"])})


# parts with their numbers, which one worker reads in sequence
PartRun = list[tuple[int, Part]]


@dataclass(frozen=True)
class Plan:
    """A corpus, or one file of it: its parts in order, and the Arrow schema of the carried columns."""

    parts: list[Part]
    carried: Any


def plan_parts(filesystem: Any, files: Sequence[InputFile], settings: Settings) -> Plan:
    """Returns the parts of all files, and one schema for all of them. Opens each file once.

    Raises JobError if a file cannot be read or lacks a column, if no type holds a column's values in
    all files, if a column cannot hold ids, and if the corpus has no rows.
    """
    is_parquet = files[0].format == "parquet"
    carried = None if is_parquet else sampled_schema(filesystem, files, settings)
    with ThreadPoolExecutor(_READERS) as pool:
        plans = list(pool.map(lambda file: _plan_file(filesystem, file, settings), files))
    parts = [part for plan in plans for part in plan.parts]
    if settings.limit is not None:
        parts = list(_limited(filesystem, parts, settings.limit))
    if not parts:
        raise JobError(f"{settings.input} holds no rows")
    if is_parquet:
        schemas = {f.path: p.carried for f, p in zip(files, plans, strict=True) if p.parts}
        carried = unified_schema(schemas, settings)
    return Plan(parts, carried)


def part_runs(parts: Sequence[Part], wanted: int) -> list[PartRun]:
    """Returns all parts, each with its number, grouped into about ``wanted`` runs.

    Parts that are read from the same place (see `Part.read_from`) form one run, or a few if fewer
    would leave workers idle. The grouping changes neither the parts nor their names.
    """
    groups = [
        list(group)
        for _, group in groupby(enumerate(parts), lambda part: (part[1].file, part[1].read_from))
    ]
    runs_per_group = min(_MAX_RUNS_PER_START, math.ceil(wanted / max(1, len(groups))))
    return [run for group in groups for run in _split(group, runs_per_group)]


def _split(group: PartRun, pieces: int) -> Iterator[PartRun]:
    count = min(max(1, pieces), len(group))
    cuts = [len(group) * n // count for n in range(count + 1)]
    return (group[start:stop] for start, stop in pairwise(cuts))


def _plan_file(filesystem: Any, file: InputFile, settings: Settings) -> Plan:
    try:
        if file.format == "parquet":
            return _plan_parquet(filesystem, file, settings)
        return Plan(_line_parts(filesystem, file, settings), None)
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError) as error:
        raise JobError(f"{file.path} cannot be read: {error}") from error


def _line_parts(filesystem: Any, file: InputFile, settings: Settings) -> list[Part]:
    header = csv_header(filesystem, file) if file.format == "csv" else []
    max_bytes = int(_MAX_ROWS * bytes_per_line(filesystem, file))
    cuts = cut_file(filesystem, file, min(settings.part_bytes, max_bytes))
    entry = 0 if file.compression else None
    parts = [Part(file, a, b, b - a, entry=entry) for a, b in pairwise(cuts)]
    # the file may hold only a header or blank lines
    if not parts or (len(parts) == 1 and not _count_rows(LineSource(filesystem, file), parts[0])):
        return []
    if file.format == "csv":
        check_columns(header, settings, file.path)
    return parts


def _plan_parquet(filesystem: Any, file: InputFile, settings: Settings) -> Plan:
    with filesystem.open_input_file(file.path) as handle:
        opened = pq.ParquetFile(handle)
        meta, schema = opened.metadata, opened.schema_arrow
    if not meta.num_rows:  # its columns and types do not matter, and are often odd
        return Plan([], None)
    check_columns(schema.names, settings, file.path)
    for option, column in settings.text_columns.items():
        _check_text_type(schema.field(column).type, option, column, file.path)
    check_parquet_types(meta, schema, settings.columns, file.path)
    step = max(1, min(_MAX_ROWS, int(settings.part_bytes / _bytes_per_row(meta, settings))))
    cuts = [0]
    while cuts[-1] < meta.num_rows:
        cuts.append(min(meta.num_rows, cuts[-1] + part_size(step, len(cuts) - 1)))
    row_weight = file.size / max(1, meta.num_rows)
    groups = group_starts(meta)
    parts = [
        Part(file, a, b, int((b - a) * row_weight), entry=groups[bisect_right(groups, a) - 1])
        for a, b in pairwise(cuts)
    ]
    return Plan(parts, pa.schema([schema.field(column) for column in settings.columns]))


def _bytes_per_row(meta: Any, settings: Settings) -> float:
    size: float = 0
    texts = settings.text_columns.values()
    for group in range(meta.num_row_groups):
        columns = (meta.row_group(group).column(i) for i in range(meta.num_columns))
        size += sum(c.total_uncompressed_size for c in columns if c.path_in_schema in texts)
    return max(1.0, size / float(max(1, meta.num_rows)))


def _check_text_type(kind: Any, option: str, column: str, path: str) -> None:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if isinstance(kind, pa.JsonType):
        kind = kind.storage_type
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(test(kind) for test in text):
        raise JobError(f"column {column!r} of {path} is {kind}, not text: choose another {option}")


def _limited(filesystem: Any, parts: Iterable[Part], limit: int) -> Iterator[Part]:
    left = limit
    for file, file_parts in groupby(parts, lambda part: part.file):
        source = LineSource(filesystem, file)
        for part in file_parts:
            if left <= 0:
                return
            if file.format == "parquet":
                rows = part.stop - part.start
                yield replace(part, stop=part.start + min(rows, left))
            else:
                rows = _count_rows(source, part)
                yield part if rows <= left else replace(part, rows=left)
            left -= rows


def _count_rows(source: LineSource, part: Part) -> int:
    data = source.read(part.start, part.stop)
    if part.file.format == "csv":
        records = csv_records(data, part.start, part.file.delimiter)
        return max(0, sum(1 for _ in records) - (part.start == 0))
    return sum(1 for _ in text_lines(data, part.start))
