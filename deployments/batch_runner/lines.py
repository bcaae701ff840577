"""The lines of a batch: one of the input as a typed request or its fault, and those of the results.

Lines are numbered from 1, blank ones included.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from deployments.batches.states import Problem

_BOM = b"\xef\xbb\xbf"
_SKIPPED_AT_ONCE = 1 << 20
_READ_BYTES = 1 << 20
_MOST_ID = 512  # characters of a custom_id


@dataclass(frozen=True)
class Line:
    """One line of the input: ``body`` is the request as JSON, unless there is a ``fault``.

    ``texts`` is how many inputs it seems to have.
    """

    number: int
    custom_id: str | None
    body: bytes = b""
    texts: int = 1
    fault: Problem | None = None


def raw_lines(stream: Any, number: int, longest: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Yields the number, the length in bytes and the content of each line of a binary stream that begins
    with line ``number``. Of a line over ``longest`` bytes there is no content.
    """
    reader = io.BufferedReader(stream, _READ_BYTES)
    while line := reader.readline(longest + 1):
        length = len(line)
        while not line.endswith(b"\n") and (more := reader.readline(_SKIPPED_AT_ONCE)):
            line, length = more, length + len(more)
        yield number, length, line if length <= longest else None
        number += 1


def read_line(raw: bytes | None, number: int, endpoint: str) -> Line | None:
    """Returns one line of the input; None if it is blank. Without content it is too long."""
    if raw is None:
        return Line(number, None, fault=Problem("line_too_long", "the line is too long to be read"))
    raw = raw.removeprefix(_BOM) if number == 1 else raw
    if not raw.strip():
        return None
    try:
        content, dumps = _loads(raw)
    except (ValueError, RecursionError) as error:
        return Line(number, None, fault=Problem("invalid_json_line", _why_not_json(raw, error)))
    if not isinstance(content, dict):
        return Line(
            number, None, fault=Problem("invalid_json_line", "the line must be a JSON object")
        )
    return _request(content, number, endpoint, dumps)


def _request(
    content: dict[str, Any], number: int, endpoint: str, dumps: Callable[[Any], bytes]
) -> Line:
    custom_id = content.get("custom_id")
    if fault := _fault_of_id(custom_id):
        return Line(number, None, fault=fault)
    if fault := _fault(content, endpoint):
        return Line(number, custom_id, fault=fault)
    try:
        body = dumps(content["body"])
    except (TypeError, ValueError, RecursionError):  # it can be read, but not written
        fault = Problem("invalid_json_line", "`body` is nested too deeply", "body")
        return Line(number, custom_id, fault=fault)
    texts = content["body"].get("input")
    return Line(number, custom_id, body, len(texts) if isinstance(texts, list) else 1)


def _fault_of_id(custom_id: object) -> Problem | None:
    if custom_id is None:
        return Problem("missing_required_parameter", "`custom_id` is missing", "custom_id")
    if (
        not isinstance(custom_id, str)
        or not 0 < len(custom_id) <= _MOST_ID
        or not _is_text(custom_id)
    ):
        return Problem(
            "invalid_custom_id",
            f"`custom_id` must be a string of 1 to {_MOST_ID} characters",
            "custom_id",
        )
    return None


def _fault(content: dict[str, Any], endpoint: str) -> Problem | None:
    if content.get("method") != "POST":
        return Problem("invalid_method", '`method` must be "POST"', "method")
    if content.get("url") != endpoint:
        return Problem(
            "invalid_url", f'`url` must be "{endpoint}", the endpoint of the batch', "url"
        )
    if not isinstance(content.get("body"), dict):
        return Problem(
            "missing_required_parameter",
            f"`body` must be an object with the fields of {endpoint}",
            "body",
        )
    return None


def _loads(raw: bytes) -> tuple[Any, Callable[[Any], bytes]]:
    """Returns a line's content, and what writes a part of it without changing its values."""
    try:
        return orjson.loads(raw), orjson.dumps
    except ValueError:  # Python's parser reads what the route then refuses, with better reasons
        return json.loads(raw.decode()), _dumps_as_python


def _dumps_as_python(body: Any) -> bytes:
    return json.dumps(body).encode()


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _why_not_json(raw: bytes, error: Exception) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as at:
        return f"the line is not UTF-8: byte 0x{raw[at.start]:02X} at position {at.start}"
    if isinstance(error, json.JSONDecodeError):  # its own text counts lines of the line
        return f"the line is not valid JSON: {error.msg} at character {error.pos + 1}"
    return f"the line is not valid JSON: {error}"


def answer_line(batch_id: str, line: Line, status: int, body: bytes) -> bytes:
    """Returns the result of a line that the route has answered; ``body`` is its JSON."""
    name, custom_id = _name(batch_id, line), orjson.dumps(line.custom_id)
    # the body may be megabytes: it is not parsed again
    response = b'{"status_code":%d,"request_id":%s,"body":%s}' % (status, name, body)
    return b'{"id":%s,"custom_id":%s,"response":%s,"error":null}\n' % (name, custom_id, response)


def fault_line(batch_id: str, line: Line, fault: Problem) -> bytes:
    """Returns the result of a line that the route has not seen."""
    error = replace(fault, line=line.number)
    return b'{"id":%s,"custom_id":%s,"response":null,"error":%s}\n' % (
        _name(batch_id, line),
        orjson.dumps(line.custom_id),
        orjson.dumps(error),
    )


def _name(batch_id: str, line: Line) -> bytes:
    return orjson.dumps(f"batch_req_{batch_id.removeprefix('batch_')}_{line.number}")
