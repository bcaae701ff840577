"""The Arrow types of the carried columns, the same for all files of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import types

from cluster.corpus.errors import JobError
from cluster.corpus.formats.columns import carried_field, fitting
from cluster.corpus.formats.files import InputFile
from cluster.corpus.formats.records import json_object, text_lines
from cluster.corpus.settings import Settings

_SAMPLE_BYTES = 1 << 22
_SAMPLE_RECORDS = 1_000
_MANTISSA_BITS = {16: 11, 32: 24, 64: 53}


def sampled_schema(filesystem: Any, files: Sequence[InputFile], settings: Settings) -> Any:
    """Returns the Arrow schema of the carried columns of text files, from the first file with content.

    CSV columns are text; JSON Lines columns have the types that fit the first records. Raises JobError
    if the file cannot be read or lacks a column.
    """
    file = next((file for file in files if file.size), files[0])
    if file.format == "text":
        check_columns(["text"], settings, file.path)
    kinds: dict[str, Any] = dict.fromkeys(settings.columns, pa.string())
    if file.format == "json" and (records := _json_sample(filesystem, file)):
        check_columns(dict.fromkeys(key for r in records for key in r), settings, file.path)
        kinds = {name: fitting([r.get(name) for r in records]) for name in kinds}
    return _schema(kinds, settings)


def unified_schema(schemas: Mapping[str, Any], settings: Settings) -> Any:
    """Returns an Arrow schema that holds the carried columns of all Parquet files without loss.

    ``schemas`` holds each file's own schema by its path. Raises JobError if no such schema exists.
    """
    kinds = {}
    for name in settings.columns:
        kinds_by_path = {path: schema.field(name).type for path, schema in schemas.items()}
        kinds[name] = _common(name, kinds_by_path)
    return _schema(kinds, settings)


def check_columns(columns: Iterable[str], settings: Settings, path: str) -> None:
    """Raises JobError, with a list of the file's columns, if an option names one that is missing."""
    names = list(columns)
    options = [("--text-column", settings.text_column)]
    options += [("--id-column", settings.id_column)] if settings.id_column else []
    options += [("--keep", column) for column in settings.keep]
    for option, column in options:
        if column not in names:
            raise JobError(
                f"{path} has no column {column!r} ({option}); it has {', '.join(names) or 'none'}"
            )


def _schema(kinds: Mapping[str, Any], settings: Settings) -> Any:
    ids = settings.id_column
    if ids is not None:
        _check_id_type(ids, kinds[ids])
    return pa.schema([carried_field(name, kind, ids) for name, kind in kinds.items()])


def _check_id_type(name: str, kind: Any) -> None:
    refused = (types.is_floating, types.is_nested, types.is_boolean)
    if any(test(kind) for test in refused):
        raise JobError(
            f"--id-column {name}: ids must be text or whole numbers of 64 bits, but the column is "
            f"{kind}: convert it to text"
        )


def _json_sample(filesystem: Any, file: InputFile) -> list[dict[str, Any]]:
    """Returns the first readable records."""
    try:
        with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
            head = stream.read(_SAMPLE_BYTES)
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"{file.path} cannot be read: {error}") from error
    whole = head[: head.rfind(b"\n") + 1] or head
    first = [line for _, line in text_lines(whole, 0)][:_SAMPLE_RECORDS]
    records = [record for record in map(json_object, first) if isinstance(record, dict)]
    if not records and file.size:
        raise JobError(f"{file.path} is not JSON Lines: none of its first lines is a JSON object")
    return records


def _common(name: str, kinds_by_path: Mapping[str, Any]) -> Any:
    """Returns a type that holds a column's values in all files. Raises JobError if there is none."""
    firsts: dict[Any, str] = {}
    for path, kind in kinds_by_path.items():
        firsts.setdefault(kind, path)
    common, *others = firsts
    for kind in others:
        if (wider := _wider(common, kind)) is None:
            clashing = next((k for k in firsts if _wider(k, kind) is None), common)
            raise JobError(
                f"column {name!r} is {clashing} in {firsts[clashing]} and {kind} in "
                f"{firsts[kind]}, and no type holds both without loss: convert them to one type"
            )
        common = wider
    return common


def _wider(one: Any, other: Any) -> Any:
    """Returns a type that holds the values of both unchanged; None if there is none."""
    if one == other:
        return one
    both = (_plain(one), _plain(other))
    try:
        fields = [pa.schema([("", kind)]) for kind in both]
        wide = pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    return wide if all(_holds(wide, kind) for kind in both) else None


def _plain(kind: Any) -> Any:
    """Arrow does not unify dictionaries or views with their plain types."""
    if types.is_dictionary(kind):
        return kind.value_type
    views = ((types.is_string_view, pa.string()), (types.is_binary_view, pa.binary()))
    return next((plain for test, plain in views if test(kind)), kind)


def _holds(wide: Any, kind: Any) -> bool:
    """Whether a cast to ``wide``, which Arrow calls wider, keeps all values unchanged."""
    if wide == kind or types.is_null(kind):
        return True
    if types.is_struct(kind):
        return _holds_fields(wide, kind)
    if types.is_nested(kind):
        return all(
            _holds(a.type, b.type) for a, b in zip(_fields(wide), _fields(kind), strict=True)
        )
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return _holds_numbers(wide, kind)
    return _is_text(wide) == _is_text(kind)


def _holds_numbers(wide: Any, kind: Any) -> bool:
    (low, high), (least, most) = _integer_range(kind), _integer_range(wide)
    if types.is_decimal(kind) and not types.is_decimal(wide):
        return False
    return least <= low and high <= most


def _holds_fields(wide: Any, kind: Any) -> bool:
    narrow = {field.name: field.type for field in _fields(kind)}
    return all(
        _holds(field.type, narrow[field.name]) if field.name in narrow else field.nullable
        for field in _fields(wide)
    )


def _fields(kind: Any) -> Iterator[Any]:
    return (kind.field(n) for n in range(kind.num_fields))


def _is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _integer_range(kind: Any) -> tuple[int, int]:
    """Returns the range of integers that a type holds without gaps: its least and its greatest."""
    if types.is_floating(kind):
        most = 1 << _MANTISSA_BITS[kind.bit_width]
    elif types.is_decimal(kind):
        most = 10 ** (kind.precision - kind.scale) - 1
    else:
        signed = types.is_signed_integer(kind)
        most = (1 << (kind.bit_width - signed)) - 1
        return (-most - 1 if signed else 0), most
    return -most, most
