"""JSON values as Arrow columns: a column reads as what stood in the file, or the row says why not.

Arrow alone would make 1 of 1.9 in a column of integers, 1.0 of true, and drop what a struct has no
field for.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any

import orjson
import pyarrow as pa

_MISFITS = (pa.ArrowException, TypeError, ValueError, OverflowError)
_ROLE = b"embedfleet"
_LEVELS = 20
# what Arrow takes as it stands or refuses by itself, by type of the column
_SAFE: dict[Any, set[type]] = {
    pa.int64(): {int},
    pa.uint64(): {int},
    pa.float64(): {int, float},
    pa.bool_(): {bool},
}


def carried_field(name: str, kind: Any, id_column: str | None) -> Any:
    """Returns an Arrow field that tells `column` whether it holds ids."""
    return pa.field(name, kind, metadata={_ROLE: b"id"} if name == id_column else None)


def column(values: Sequence[Any], field: Any, faults: dict[int, str]) -> Any:
    """Returns values as an Arrow array, with nulls where they do not fit ``field``.

    Adds the reasons to ``faults``, by row. A text column takes any value, as its JSON text.
    """
    if _ROLE in (field.metadata or {}):
        values = _names(values, field.name, faults)
    if (array := _array(values, field.type)) is not None:
        return array
    kept = list(values)
    for row, value in enumerate(values):
        if _array([value], field.type) is None:
            kept[row] = None
            faults.setdefault(row, f"column {field.name!r} does not fit {field.type}")
    return _array(kept, field.type)


def fitting(values: Sequence[Any]) -> Any:
    """Returns the Arrow type in which all values read as they stand; text where there is none."""
    try:
        kind = pa.array(values).type
        storable = _storable(kind)
    except OverflowError:
        kind, storable = pa.uint64(), True  # which Arrow does not infer
    except _MISFITS:
        return pa.string()
    return kind if storable and _array(values, kind) is not None else pa.string()


def _array(values: Sequence[Any], kind: Any) -> Any:
    """None where any of the values would read otherwise."""
    try:
        there = {*map(type, values)} - {NoneType}
        if kind == pa.string():
            return pa.array(values if there <= {str} else list(map(_as_text, values)), kind)
        array = pa.array(values, kind)
        if there <= _SAFE.get(kind, set()):
            return array
        return array if all(map(_same, values, array.to_pylist())) else None
    except _MISFITS:
        return None


def _as_text(value: Any) -> Any:
    json = isinstance(value, bool | int | float | list | dict)
    return orjson.dumps(value).decode() if json else value


def _same(value: Any, read: Any) -> bool:
    """Whether an Arrow value reads as a JSON value does; a struct may have more fields, all null."""
    if isinstance(value, dict):
        if not isinstance(read, dict) or value.keys() - read.keys():
            return False
        return all(_same(value.get(key), found) for key, found in read.items())
    if isinstance(value, list):
        return isinstance(read, list) and all(map(_same, value, read))
    return isinstance(value, bool) == isinstance(read, bool) and bool(value == read)


def _storable(kind: Any, levels: int = _LEVELS) -> bool:
    """Parquet has no struct without fields, and its readers take no type of a hundred levels."""
    if pa.types.is_nested(kind):
        inner = [kind.field(n).type for n in range(kind.num_fields)]
        known = (inside for inside in inner if not pa.types.is_null(inside))
        return bool(inner) and levels > 0 and all(_storable(i, levels - 1) for i in known)
    return not pa.types.is_null(kind)


def _names(values: Sequence[Any], name: str, faults: dict[int, str]) -> list[Any]:
    """Integers beyond 64 bits come as floats, of which several are the same."""
    found = list(values)
    for row, value in enumerate(values):
        if isinstance(value, bool | float | list | dict):
            faults.setdefault(row, f"id {name!r} is neither text nor a whole number of 64 bits")
            found[row] = None
    return found
