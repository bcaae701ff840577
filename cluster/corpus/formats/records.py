"""Records of text files (lines, JSON Lines, CSV): where they start, and what they hold."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from cluster.corpus.errors import JobError
from cluster.corpus.formats.files import InputFile

_BLOCK = 1 << 20
_HEAD = 1 << 16
_FIRST_PARTS = (1, 3, 4)  # eighths of the others
_LF, _CR, _QUOTE = b'\n\r"'
_BOM = b"\xef\xbb\xbf"
_MAX_FIELD_BYTES = 1 << 30  # a field may be as long as a part

Offsets = npt.NDArray[np.intp]


class _Unclear(Exception):
    """Counting quotes cannot tell where the records of this stream end."""


def part_size(whole: int, number: int) -> int:
    """Returns the size of a file's part, in the unit of ``whole``.

    The first parts of a file are smaller, so that a job that is stopped early keeps some of its work.
    """
    eighths = _FIRST_PARTS[number] if number < len(_FIRST_PARTS) else 8
    return max(1, whole * eighths // 8)


def starts(ends: Iterable[tuple[int, Offsets]], target: int) -> list[int]:
    """Returns offsets that cut a stream between records, at least a `part_size` of ``target`` apart.

    The last offset is the end of the stream. ``ends`` yields each block's size and where records end
    in it.
    """
    cuts, position = [0], 0
    stop = part_size(target, 0)
    for size, block_ends in ends:
        firsts = position + block_ends
        while (at := int(np.searchsorted(firsts, stop))) < len(firsts):
            cuts.append(int(firsts[at]))
            stop = cuts[-1] + part_size(target, len(cuts) - 1)
        position += size
    return cuts if cuts[-1] == position else [*cuts, position]


def _line_ends(blocks: Iterable[bytes]) -> Iterator[tuple[int, Offsets]]:
    for block in blocks:
        yield len(block), np.flatnonzero(np.frombuffer(block, np.uint8) == _LF) + 1


def _record_ends(blocks: Iterable[bytes], delimiter: str) -> Iterator[tuple[int, Offsets]]:
    """Where CSV records end: at the newlines with an even number of quotes before them.

    Raises _Unclear if csv.reader would read a quote as a character of a field, or a carriage return as
    an error: counting is wrong from there on.
    """
    before, odd = b"\n", 0
    # a quote opens a field if one of these precedes it
    opens = np.isin(np.arange(256), [*delimiter.encode(), *b'\n"'])
    for block in _mask_byte_order_mark(blocks, delimiter.encode()):
        data = np.frombuffer(before + block, np.uint8)
        quotes = np.flatnonzero(data[1:] == _QUOTE)
        ends = np.flatnonzero(data[1:] == _LF)
        returns = np.flatnonzero(data[:-1] == _CR)
        alone = returns[data[returns + 1] != _LF] - 1
        if not opens[data[quotes[odd::2]]].all() or not _inside(alone, quotes, odd).all():
            raise _Unclear
        yield len(block), ends[~_inside(ends, quotes, odd)] + 1
        before, odd = block[-1:], (odd + len(quotes)) & 1


def _inside(places: Offsets, quotes: Offsets, odd: int) -> npt.NDArray[np.bool_]:
    """Which places lie between quotes; ``odd`` is 1 if a quote is open before the first."""
    return ((np.searchsorted(quotes, places) + odd) & 1).astype(bool)


def _mask_byte_order_mark(blocks: Iterable[bytes], delimiter: bytes) -> Iterator[bytes]:
    """Puts delimiters in place of a byte order mark, since a field starts after it."""
    for number, block in enumerate(blocks):
        has_mark = number == 0 and block.startswith(_BOM)
        yield delimiter * len(_BOM) + block[len(_BOM) :] if has_mark else block


def blocks_of(stream: Any) -> Iterator[bytes]:
    """Yields a stream's bytes in blocks."""
    while block := stream.read(_BLOCK):
        yield block


def bytes_per_line(filesystem: Any, file: InputFile) -> float:
    """Returns the mean length of a file's first lines, in decompressed bytes."""
    with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
        head: bytes = stream.read(_HEAD)
    return max(1, len(head)) / max(1, head.count(b"\n"))


def cut_file(filesystem: Any, file: InputFile, target: int) -> list[int]:
    """Returns the offsets in the decompressed bytes where a file's parts start; the last is the end.

    An uncompressed file of lines is only read near the cuts. CSV and compressed files are read
    completely, and CSV twice if unquoted fields contain quotes.
    """
    if file.size == 0:
        return [0]
    if file.format == "csv":
        return _cut_csv(filesystem, file, target)
    if file.compression:
        with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
            return starts(_line_ends(blocks_of(stream)), target)
    cuts = [0]
    with filesystem.open_input_file(file.path) as handle:
        while cuts[-1] < file.size:
            size = part_size(target, len(cuts) - 1)
            cuts.append(_next_line(handle, cuts[-1] + size - 1, file.size))
    return cuts


def _cut_csv(filesystem: Any, file: InputFile, target: int) -> list[int]:
    with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
        try:
            return starts(_record_ends(blocks_of(stream), file.delimiter), target)
        except _Unclear:
            pass
    with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
        return _parsed_starts(io.BufferedReader(stream, _BLOCK), target, file.delimiter)


def _parsed_starts(stream: Iterable[bytes], target: int, delimiter: str) -> list[int]:
    """Like `starts`, but with the parser that later reads the parts; several times slower."""
    cuts, stop = [0], 0
    for _, stop, _ in _csv_rows(stream, 0, delimiter):
        if stop - cuts[-1] >= part_size(target, len(cuts) - 1):
            cuts.append(stop)
    return cuts if cuts[-1] == stop else [*cuts, stop]


def _next_line(handle: Any, offset: int, size: int) -> int:
    if offset >= size:
        return size
    handle.seek(offset)
    while block := handle.read(1 << 16):
        if (at := block.find(b"\n")) >= 0:
            return min(size, offset + int(at) + 1)
        offset += len(block)
    return size


def text_lines(data: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Yields each line that is not blank, with its offset in the file."""
    for line in io.BytesIO(data):  # bytes.splitlines would split at carriage returns too
        body = line.removeprefix(_BOM) if offset == 0 else line
        if body.strip():
            yield offset, body.rstrip(b"\r\n")
        offset += len(line)


def json_object(line: bytes) -> dict[str, Any] | str:
    """Returns a line's JSON object, or the reason why it has none.

    NaN and Infinity, which Python and others write although JSON has no such numbers, are floats.
    """
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            value = json.loads(line.decode(), parse_int=_integer)
        except (ValueError, RecursionError):
            return f"broken record: not JSON: {error}"
    return value if isinstance(value, dict) else "broken record: not a JSON object"


def _integer(digits: str) -> int | float:
    """Integers beyond 64 bits are floats, as orjson has it."""
    number = int(digits)
    return number if -(1 << 63) <= number < 1 << 64 else float(number)


class RepeatedFields:
    """Finds objects that have a field twice, of which every reader of JSON would keep one."""

    def __init__(self, names: Iterable[str]) -> None:
        """``names`` are the fields that matter."""
        self._names = {*names}
        keys = b"|".join(re.escape(orjson.dumps(name)) for name in sorted(self._names))
        self._key = re.compile(rb"(%s)\s*:" % keys)

    def fault(self, line: bytes) -> str | None:
        """Returns why an object cannot be used; None if it can."""
        keys = self._key.findall(line)
        if len(keys) == len({*keys}):  # nearly always, so that the line is not parsed again
            return None
        pairs = json.loads(line.decode(), object_pairs_hook=list)
        counts = Counter(name for name, _ in pairs if name in self._names)
        twice = [name for name, count in counts.items() if count > 1]
        return f"broken record: two fields {twice[0]!r}" if twice else None


def csv_records(
    data: bytes, offset: int, delimiter: str = ","
) -> Iterator[tuple[int, list[str] | str]]:
    """Yields the offset of each record that is not blank, and its fields or why it cannot be read.

    Bytes that are not UTF-8 become lone surrogates.
    """
    rows = _csv_rows(io.BytesIO(data), offset, delimiter)
    return ((start, fields) for start, _, fields in rows if fields)


def _csv_rows(
    stream: Iterable[bytes], offset: int, delimiter: str
) -> Iterator[tuple[int, int, list[str] | str]]:
    """Yields where each record starts and stops, and its fields. ``stream`` yields lines.

    After a record that cannot be read, the next line starts a new one.
    """
    start = consumed = offset

    def decoded() -> Iterator[str]:
        nonlocal consumed
        for line in stream:
            body = line.removeprefix(_BOM) if consumed == 0 else line
            consumed += len(line)
            yield body.decode("utf-8", "surrogateescape")

    csv.field_size_limit(_MAX_FIELD_BYTES)  # applies to the whole process
    reader = csv.reader(decoded(), delimiter=delimiter)
    while (fields := _next_record(reader)) is not None:
        yield start, consumed, fields
        start = consumed


def _next_record(reader: Iterator[list[str]]) -> list[str] | str | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        reason = str(error).partition(" - ")[0]  # the rest is advice for programmers
        return f"broken record: {reason}"


def csv_header(filesystem: Any, file: InputFile) -> list[str]:
    """Returns the names in a CSV file's first record. Raises JobError when it cannot be read."""
    with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
        head = stream.read(_BLOCK)
    header = next((fields for _, fields in csv_records(head, 0, file.delimiter)), [])
    if isinstance(header, str):
        raise JobError(
            f"the header of {file.path} is malformed ({header}): convert the file's line ends to \\n "
            "or \\r\\n"
        )
    return header
