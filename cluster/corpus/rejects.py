"""Which rows cannot be encoded and why, and what a row is called that has no id of its own."""

from __future__ import annotations

import hashlib

_SHOWN = 200


def fault(value: object) -> str | None:
    """Returns why a value cannot be encoded; None when it can."""
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


def too_long(limit: int) -> str:
    """Returns the reason for a text over the model's limit."""
    return f"over the model's limit of {limit} tokens; --truncate cuts, --chunk divides"


def repeated(source: str) -> str:
    """Returns the reason for a row whose id an earlier row has, in file ``source``."""
    return f"duplicate id, first in {source}"


def derived_id(file: str, position: int, value: object) -> str:
    """Returns 32 hex digits from a row's place and content, the same on every run.

    ``position`` is the row's number in a Parquet file, its byte offset in others.
    """
    content = value if isinstance(value, str | bytes) else repr(value)
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    return hashlib.sha256(f"{file}\0{position}\0".encode() + data).hexdigest()[:32]


def shown(value: object) -> str | None:
    """Returns the start of a rejected value, for people."""
    if value is None:
        return None
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text[:_SHOWN].encode("utf-8", "replace").decode()
