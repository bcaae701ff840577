"""Where records of line formats start: what lets one file be read in parts. Bytes in, offsets out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import orjson

from cluster.encoding.inputs import InputFile

_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_LONGEST_FIELD = 1 << 30  # a field may be as long as a part


def starts(blocks: Iterable[bytes], target: int, quoted: bool) -> list[int]:
    """Returns offsets that cut a stream into runs of whole records, each of ``target`` bytes or a
    record more; the last is the end. In a ``quoted`` (CSV) stream a record may hold newlines.
    """
    cuts, position, open_quotes = [0], 0, 0
    for block in blocks:
        data = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        if quoted:
            parity = (np.cumsum(data == ord('"')) + open_quotes) & 1
            ends = ends[parity[ends] == 0]
            open_quotes = int(parity[-1])
        firsts = position + ends + 1
        while (at := int(np.searchsorted(firsts, cuts[-1] + target))) < len(firsts):
            cuts.append(int(firsts[at]))
        position += len(block)
    return cuts if cuts[-1] == position else [*cuts, position]


def blocks_of(stream: Any) -> Iterator[bytes]:
    """Yields a stream's bytes."""
    while block := stream.read(_BLOCK):
        yield block


def cut_file(filesystem: Any, file: InputFile, target: int) -> list[int]:
    """Returns the offsets of a file's parts, the end last. Offsets are of the decompressed bytes.

    An uncompressed file of lines is only looked at near its cuts; CSV and compressed files are read
    through once.
    """
    if file.size == 0:
        return [0]
    if file.compression or file.format == "csv":
        with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
            return starts(blocks_of(stream), target, file.format == "csv")
    cuts = [0]
    with filesystem.open_input_file(file.path) as handle:
        while cuts[-1] < file.size:
            cuts.append(_next_line(handle, cuts[-1] + target - 1, file.size))
    return cuts


def _next_line(handle: Any, offset: int, size: int) -> int:
    if offset >= size:
        return size
    handle.seek(offset)
    while block := handle.read(1 << 16):
        if (at := block.find(b"\n")) >= 0:
            return min(size, offset + int(at) + 1)
        offset += len(block)
    return size


def lines(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yields each line that is not blank, with its offset in the file."""
    for line in io.BytesIO(data):  # bytes.splitlines would split at carriage returns too
        body = line.removeprefix(_BOM) if offset == 0 else line
        if body.strip():
            yield offset, body.rstrip(b"\r\n")
        offset += len(line)


def json_object(line: bytes) -> dict[str, Any] | str:
    """Returns the object that a line holds, or why there is none."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return f"broken record: not JSON: {error}"
    return found if isinstance(found, dict) else "broken record: not a JSON object"


def csv_records(data: bytes, offset: int) -> Iterator[tuple[int, list[str]]]:
    """Yields the fields of each record that is not blank, with its offset in the file.

    What is not UTF-8 comes as lone surrogates.
    """
    consumed = 0

    def counted() -> Iterator[str]:
        nonlocal consumed
        for line in io.BytesIO(data):
            consumed += len(line)
            body = line.removeprefix(_BOM) if offset == 0 and consumed == len(line) else line
            yield body.decode("utf-8", "surrogateescape")

    csv.field_size_limit(_LONGEST_FIELD)  # of the whole process; there is no other
    reader, start = csv.reader(counted()), 0
    for fields in reader:
        if fields:
            yield offset + start, fields
        start = consumed


def csv_header(filesystem: Any, file: InputFile) -> list[str]:
    """Returns the names in a CSV file's first record."""
    with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
        head = stream.read(_BLOCK)
    return next((fields for _, fields in csv_records(head, 0)), [])
