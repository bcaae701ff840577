"""Reads a part: its texts as they are in the file, valid or not, and the columns to carry along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cluster.corpus.formats.columns import column
from cluster.corpus.formats.records import (
    RepeatedFields,
    csv_header,
    csv_records,
    json_object,
    text_lines,
)
from cluster.corpus.formats.sources import LineSource, RowSource, Source, source_of
from cluster.corpus.plan.parts import Part

# a record's columns, or why it cannot be read
Record = dict[str, Any] | str


@dataclass(frozen=True)
class Rows:
    """A part's rows.

    ``positions`` are row numbers in Parquet, byte offsets in other formats; ``texts`` may hold any
    value; ``carried`` is an Arrow table of the id and the kept columns; ``faults`` holds, by row, why
    a row could not be read. ``queries`` are what each text is scored with, and may hold any value; there
    are none if texts are encoded.
    """

    positions: Sequence[int]
    texts: Sequence[object]
    carried: Any
    faults: dict[int, str]
    queries: Sequence[object] = ()

    def __len__(self) -> int:
        return len(self.positions)


def read_part(  # noqa: PLR0913
    filesystem: Any,
    part: Part,
    text_column: str,
    carried: Any,
    source: Source | None = None,
    *,
    query_column: str | None = None,
) -> Rows:
    """Reads a part.

    ``carried`` is the Arrow schema of the columns to carry along. ``source`` is the part's file, if
    other parts of it are read too. Without a ``query_column``, the rows have no queries. Raises OSError
    or pyarrow's errors if the file cannot be read.
    """
    source = source or source_of(filesystem, part.file)
    texts = [text_column] if query_column is None else [text_column, query_column]
    if isinstance(source, RowSource):
        return _read_parquet(source, part, texts, carried)
    return _read_lines(filesystem, source, part, texts, carried)


def _read_lines(
    filesystem: Any, source: LineSource, part: Part, text_columns: Sequence[str], carried: Any
) -> Rows:
    data = source.read(part.start, part.stop)
    names = dict.fromkeys([*text_columns, *carried.names])
    records = list(_records(filesystem, part, data, names))[: part.rows]
    positions = [position for position, _ in records]
    faults = {row: record for row, (_, record) in enumerate(records) if isinstance(record, str)}
    values = [record if isinstance(record, dict) else {} for _, record in records]
    table = _table(values, carried, faults)
    texts, *queries = ([value.get(name) for value in values] for name in text_columns)
    return Rows(positions, texts, table, faults, *queries)


def _records(
    filesystem: Any, part: Part, data: bytes, names: Iterable[str]
) -> Iterable[tuple[int, Record]]:
    lines = text_lines(data, part.start)
    if part.file.format == "json":
        return _json_rows(lines, RepeatedFields(names))
    if part.file.format == "text":
        return ((position, {"text": _decode(line)}) for position, line in lines)
    return _csv_rows(csv_header(filesystem, part.file), data, part)


def _json_rows(
    lines: Iterable[tuple[int, bytes]], repeated: RepeatedFields
) -> Iterator[tuple[int, Record]]:
    for position, line in lines:
        record = json_object(line)
        yield position, (isinstance(record, dict) and repeated.fault(line)) or record


def _csv_rows(header: list[str], data: bytes, part: Part) -> Iterator[tuple[int, Record]]:
    records = csv_records(data, part.start, part.file.delimiter)
    for number, (position, fields) in enumerate(records):
        if part.start == 0 and number == 0:
            continue
        if isinstance(fields, str):
            yield position, fields
        elif len(fields) != len(header):
            yield position, f"broken record: {len(fields)} fields, the header has {len(header)}"
        else:
            yield position, dict(zip(header, fields, strict=True))


def _decode(line: bytes) -> str | bytes:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line


def _table(values: Sequence[dict[str, Any]], schema: Any, faults: dict[int, str]) -> Any:
    columns = [
        column([value.get(field.name) for value in values], field, faults) for field in schema
    ]
    return pa.table(columns, schema=schema)


def _read_parquet(source: RowSource, part: Part, text_columns: Sequence[str], carried: Any) -> Rows:
    columns = list(dict.fromkeys([*text_columns, *carried.names]))
    table = pa.Table.from_batches(source.read(part.start, part.stop, columns))
    texts, *queries = (column_values(table[name]) for name in text_columns)
    kept = table.select(carried.names).cast(carried)
    return Rows(range(part.start, part.stop), texts, kept, {}, *queries)


def column_values(column: Any) -> list[object]:
    """Returns a column's values; a text that is not valid UTF-8 is returned as bytes."""
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        raw = column.cast(pa.large_binary()).to_pylist()
        values = [value if value is None else _decode(value) for value in raw]
    return values
