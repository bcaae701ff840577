"""Rejected rows: why a row cannot be encoded, and the table that lists them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import pyarrow as pa

_EXCERPT_CHARACTERS = 200
_KIND_CHARACTERS = 60
NOTHING_TO_READ = "the model's tokenizer finds nothing in it"
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("text", pa.string()),
    ]
)


class Reject(NamedTuple):
    """One rejected row. ``position`` is its row number in Parquet, its byte offset in other formats."""

    id: str
    source: str
    position: int
    reason: str
    text: str | None


def reject_table(rejects: Iterable[Reject]) -> Any:
    """Returns rejected rows as an Arrow table."""
    return pa.Table.from_pylist([reject._asdict() for reject in rejects], schema=_SCHEMA)


def text_fault(value: object) -> str | None:
    """Returns why a value cannot be encoded; None if it can."""
    if value is None:
        return "null"
    if isinstance(value, bytes):
        return "not text: not valid UTF-8"
    if not isinstance(value, str):
        return f"not text: {type(value).__name__}"
    if not value.strip():
        return "empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "not text: not valid Unicode"
    return None


def reject_kind(reason: str) -> str:
    """Returns a reason without what belongs to one row alone, for counting."""
    return re.split(r"[:,]", reason, maxsplit=1)[0][:_KIND_CHARACTERS]


def count_kinds(reasons: Iterable[str]) -> dict[str, int]:
    """Returns how many rows were rejected for each `reject_kind`."""
    return dict(Counter(map(reject_kind, reasons)))


def too_long(limit: int) -> str:
    """Returns the reason for a text over the model's limit."""
    return f"over the model's limit of {limit} tokens: truncate it, or divide it into chunks"


def too_long_together(limit: int) -> str:
    """Returns the reason for a query and a document that are over the model's limit."""
    return f"query and document are over the model's limit of {limit} tokens: truncate them"


def pair_fault(name: str, reason: str) -> str:
    """Returns the reason for a pair of which one text, its query or its document, has a fault."""
    return f"{name} {reason}"


def too_long_to_chunk(characters: int, most: int) -> str:
    """Returns the reason for a text that is too long even to be divided."""
    return f"too long to chunk: it has {characters} characters, at most {most} are divided"


def zero_vector(dtype: str) -> str:
    """Returns the reason for a text whose vector is zero, which no byte stands for."""
    return f"its vector is zero, which cannot be written as {dtype}"


def duplicate_id(source: str) -> str:
    """Returns the reason for a row whose id an earlier row of file ``source`` has."""
    return f"duplicate id, first in {source}"


def derived_id(file: str, position: int, value: object) -> str:
    """Returns 32 hex digits from a row's place and content, the same on every run.

    ``position`` is the row number in a Parquet file, the byte offset in other formats.
    """
    content = value if isinstance(value, str | bytes) else repr(value)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    return hashlib.sha256(f"{file}\0{position}\0".encode() + data).hexdigest()[:32]


def excerpt(value: object) -> str | None:
    """Returns the start of a rejected value, for people to read."""
    if value is None:
        return None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:_EXCERPT_CHARACTERS].encode("utf-8", "replace").decode()
