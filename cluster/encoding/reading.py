"""From a part to its rows: texts as they stand there, good or bad, and the columns to carry along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import parquet as pq

from cluster.encoding.inputs import InputFile
from cluster.encoding.parts import Part
from cluster.encoding.records import csv_header, csv_records, lines
from cluster.encoding.sources import LineSource, RowSource, Source, source_of


@dataclass(frozen=True)
class Rows:
    """A part's rows. ``texts`` holds any value, ``faults`` why a row could not be read, by row;
    ``carried`` is an Arrow table of the id and the kept columns.
    """

    positions: Sequence[int]
    texts: Sequence[object]
    carried: Any
    faults: dict[int, str]

    def __len__(self) -> int:
        return len(self.positions)


def read_part(
    filesystem: Any, part: Part, text_column: str, carried: Any, source: Source | None = None
) -> Rows:
    """Reads a part. ``carried`` is the Arrow schema of the columns to carry along, ``source`` the
    part's file where other parts of it are read as well.

    Raises OSError or pyarrow's errors when the file itself cannot be read.
    """
    source = source or source_of(filesystem, part.file)
    if isinstance(source, RowSource):
        return _read_parquet(source, part, text_column, carried)
    return _read_lines(filesystem, source, part, text_column, carried)


def _read_lines(
    filesystem: Any, source: LineSource, part: Part, text_column: str, carried: Any
) -> Rows:
    data = source.read(part.start, part.stop)
    records = list(_records(filesystem, part, data))[: part.rows]
    positions = [position for position, _ in records]
    faults = {row: found for row, (_, found) in enumerate(records) if isinstance(found, str)}
    values = [found if isinstance(found, dict) else {} for _, found in records]
    table = _table(values, carried, faults)
    return Rows(positions, [value.get(text_column) for value in values], table, faults)


def sample_schema(filesystem: Any, file: InputFile, columns: Sequence[str]) -> Any:
    """Returns the Arrow schema of these columns: Parquet's own, text in CSV, and in JSON Lines
    what fits the first records.
    """
    if file.format == "parquet":
        with filesystem.open_input_file(file.path) as handle:
            schema = pq.read_schema(handle)
        return pa.schema([schema.field(column) for column in columns])
    if file.format != "json":
        return pa.schema([(column, pa.string()) for column in columns])
    values = list(sample_records(filesystem, file))
    return pa.schema([(c, _fitting([v.get(c) for v in values])) for c in columns])


def sample_records(filesystem: Any, file: InputFile, most: int = 1_000) -> Iterator[dict[str, Any]]:
    """Yields the first readable records of a JSON Lines file."""
    with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
        head = stream.read(1 << 22)
    whole = head[: head.rfind(b"\n") + 1] or head
    for _, line in list(lines(whole, 0))[:most]:
        found = _parsed(line)
        if isinstance(found, dict):
            yield found


def _records(
    filesystem: Any, part: Part, data: bytes
) -> Iterable[tuple[int, dict[str, Any] | str]]:
    if part.file.format == "json":
        return ((position, _parsed(line)) for position, line in lines(data, part.start))
    if part.file.format == "text":
        return ((p, {"text": _decoded(line)}) for p, line in lines(data, part.start))
    return _csv_rows(csv_header(filesystem, part.file), data, part.start)


def _csv_rows(
    header: list[str], data: bytes, start: int
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    for number, (position, fields) in enumerate(csv_records(data, start)):
        if start == 0 and number == 0:
            continue
        if len(fields) != len(header):
            yield position, f"broken record: {len(fields)} fields, the header has {len(header)}"
        else:
            yield position, dict(zip(header, fields, strict=True))


def _parsed(line: bytes) -> dict[str, Any] | str:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"broken record: not JSON: {error}"
    return found if isinstance(found, dict) else "broken record: not a JSON object"


def _decoded(line: bytes) -> str | bytes:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line


def _table(values: Sequence[dict[str, Any]], schema: Any, faults: dict[int, str]) -> Any:
    columns = [
        _column([value.get(field.name) for value in values], field, faults) for field in schema
    ]
    return pa.table(columns, schema=schema)


def _column(values: list[Any], field: Any, faults: dict[int, str]) -> Any:
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        fitting = [_fits(value, field.type) for value in values]
    for row, fits in enumerate(fitting):
        if not fits:
            faults.setdefault(row, f"column {field.name!r} does not fit {field.type}")
    kept = [value if fits else None for value, fits in zip(values, fitting, strict=True)]
    return pa.array(kept, field.type)


def _fits(value: Any, kind: Any) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _fitting(values: list[Any]) -> Any:
    try:
        kind = pa.array(values).type
    except (pa.ArrowException, OverflowError):
        return pa.string()
    return pa.string() if pa.types.is_null(kind) else kind


def _read_parquet(source: RowSource, part: Part, text_column: str, carried: Any) -> Rows:
    columns = list(dict.fromkeys([text_column, *carried.names]))
    table = pa.Table.from_batches(source.read(part.start, part.stop, columns))
    return Rows(
        range(part.start, part.stop),
        _texts(table[text_column]),
        table.select(carried.names).cast(carried),
        {},
    )


def _texts(column: Any) -> list[object]:
    try:
        found: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        raw = column.cast(pa.large_binary()).to_pylist()
        found = [value if value is None else _decoded(value) for value in raw]
    return found
