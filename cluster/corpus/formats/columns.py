"""JSON values as Arrow columns: a value is kept exactly as it is in the file, or its row is rejected.

Arrow alone would turn 1.9 into 1 in a column of integers, true into 1.0, and drop keys that a struct
has no field for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import NoneType
from typing import Any

import orjson
import pyarrow as pa

_CONVERSION_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError)
_ROLE_KEY = b"embedfleet"
_EXTENSION_KEYS = (b"ARROW:extension:name", b"ARROW:extension:metadata")
_MAX_LEVELS = 20
# the Python types that Arrow keeps exactly or refuses by itself, by type of the column
_EXACT: dict[Any, set[type]] = {
    pa.int64(): {int},
    pa.uint64(): {int},
    pa.float64(): {int, float},
    pa.bool_(): {bool},
}


def carried_field(field: Any, id_column: str | None) -> Any:
    """Returns the Arrow field of a carried column. Its metadata marks the id column for `column`."""
    role = {_ROLE_KEY: b"id"} if field.name == id_column else {}
    return pa.field(field.name, field.type, metadata={**extension_metadata(field), **role})


def extension_metadata(field: Any) -> dict[bytes, bytes]:
    """Returns the metadata that name an extension type which this process does not know."""
    metadata = field.metadata or {}
    return {key: metadata[key] for key in _EXTENSION_KEYS if key in metadata}


def column(values: Sequence[Any], field: Any, faults: dict[int, str]) -> Any:
    """Returns values as an Arrow array, with nulls for those that do not fit ``field``.

    Adds the reasons to ``faults``, by row. A text column takes any value: as JSON if it is no string.
    """
    if _ROLE_KEY in (field.metadata or {}):
        values = _valid_ids(values, field.name, faults)
    if (array := _array(values, field.type)) is not None:
        return array
    kept = list(values)
    for row, value in enumerate(values):
        if _array([value], field.type) is None:
            kept[row] = None
            faults.setdefault(row, f"column {field.name!r} does not fit {field.type}")
    return _array(kept, field.type)


def fitting(values: Sequence[Any]) -> Any:
    """Returns an Arrow type that keeps all values exactly; text if there is none."""
    try:
        kind = pa.array(values).type
        storable = _storable(kind)
    except OverflowError:
        kind, storable = pa.uint64(), True  # Arrow does not infer this type
    except _CONVERSION_ERRORS:
        return pa.string()
    return kind if storable and _array(values, kind) is not None else pa.string()


def _array(values: Sequence[Any], kind: Any) -> Any:
    """Returns values as an Arrow array; None if any of them would change."""
    try:
        kinds = {*map(type, values)} - {NoneType}
        if kind == pa.string():
            return pa.array(values if kinds <= {str} else list(map(_as_text, values)), kind)
        array = pa.array(values, kind)
        if kinds <= _EXACT.get(kind, set()):
            return array
        return array if all(map(_same, values, array.to_pylist())) else None
    except _CONVERSION_ERRORS:
        return None


def _as_text(value: Any) -> Any:
    if not isinstance(value, bool | int | float | list | dict):
        return value
    text = orjson.dumps(value).decode()
    # orjson writes null for NaN and Infinity
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) if "null" in text else text


def _same(value: Any, arrow: Any) -> bool:
    """Whether an Arrow value equals a JSON value; a struct may have more fields, all of them null."""
    if isinstance(value, dict):
        if not isinstance(arrow, dict) or value.keys() - arrow.keys():
            return False
        return all(_same(value.get(key), field) for key, field in arrow.items())
    if isinstance(value, list):
        return isinstance(arrow, list) and all(map(_same, value, arrow))
    same = value == arrow or (value != value and arrow != arrow)  # NaN equals nothing  # noqa: PLR0124
    return isinstance(value, bool) == isinstance(arrow, bool) and bool(same)


def _storable(kind: Any, levels: int = _MAX_LEVELS) -> bool:
    """Parquet has no struct without fields, and its readers refuse types of a hundred levels."""
    if pa.types.is_nested(kind):
        inner = [kind.field(n).type for n in range(kind.num_fields)]
        known = (inside for inside in inner if not pa.types.is_null(inside))
        return bool(inner) and levels > 0 and all(_storable(i, levels - 1) for i in known)
    return not pa.types.is_null(kind)


def _valid_ids(values: Sequence[Any], name: str, faults: dict[int, str]) -> list[Any]:
    """Rejects floats: integers beyond 64 bits arrive as floats, and several of them become equal."""
    ids = list(values)
    for row, value in enumerate(values):
        if isinstance(value, bool | float | list | dict):
            faults.setdefault(
                row, f"id in column {name!r} is neither text nor a whole number of 64 bits"
            )
            ids[row] = None
    return ids
