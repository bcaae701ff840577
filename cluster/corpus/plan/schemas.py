"""Of which types the carried columns are, one for all files of a corpus, found before any work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import types

from cluster.corpus.errors import JobError
from cluster.corpus.plan.inputs import InputFile
from cluster.corpus.read.columns import carried_field, fitting
from cluster.corpus.read.records import json_object, lines
from cluster.corpus.settings import Settings

_SAMPLED_BYTES = 1 << 22
_SAMPLED = 1_000
_MANTISSA = {16: 11, 32: 24, 64: 53}


def sampled_schema(filesystem: Any, files: Sequence[InputFile], settings: Settings) -> Any:
    """Returns the Arrow schema of the carried columns: text in CSV and text files, and in JSON Lines
    what fits the first records.

    Raises JobError when that file cannot be read or lacks a column.
    """
    file = next((file for file in files if file.size), files[0])
    if file.format == "text":
        check_columns(["text"], settings, file.path)
    kinds: dict[str, Any] = dict.fromkeys(settings.columns, pa.string())
    if file.format == "json" and (records := _json_sample(filesystem, file)):
        check_columns(dict.fromkeys(key for r in records for key in r), settings, file.path)
        kinds = {name: fitting([r.get(name) for r in records]) for name in kinds}
    return _schema(kinds, settings)


def unified_schema(found: Mapping[str, Any], settings: Settings) -> Any:
    """Returns the Arrow schema of the carried columns that holds those of all files without loss.

    ``found`` has each file's own schema by its path. Raises JobError when there is none.
    """
    kinds = {}
    for name in settings.columns:
        of_files = {path: schema.field(name).type for path, schema in found.items()}
        kinds[name] = _common(name, of_files)
    return _schema(kinds, settings)


def check_columns(found: Iterable[str], settings: Settings, where: str) -> None:
    """Raises JobError, with the columns that there are, when a wanted one is missing."""
    names = list(found)
    options = [("--text-column", settings.text_column)]
    options += [("--id-column", settings.id_column)] if settings.id_column else []
    options += [("--keep", column) for column in settings.keep]
    for option, column in options:
        if column not in names:
            raise JobError(
                f"{where} has no column {column!r} ({option}); it has {', '.join(names) or 'none'}"
            )


def _schema(kinds: Mapping[str, Any], settings: Settings) -> Any:
    own = settings.id_column
    if own is not None:
        _check_ids(own, kinds[own])
    return pa.schema([carried_field(name, kind, own) for name, kind in kinds.items()])


def _check_ids(name: str, kind: Any) -> None:
    refused = (types.is_floating, types.is_nested, types.is_boolean)
    if any(test(kind) for test in refused):
        raise JobError(
            f"--id-column {name}: ids must be text or whole numbers of 64 bits, and the column is "
            f"{kind}; write them as text"
        )


def _json_sample(filesystem: Any, file: InputFile) -> list[dict[str, Any]]:
    """Returns the first readable records."""
    try:
        with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
            head = stream.read(_SAMPLED_BYTES)
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"{file.path} cannot be read: {error}") from error
    whole = head[: head.rfind(b"\n") + 1] or head
    first = [line for _, line in lines(whole, 0)][:_SAMPLED]
    records = [found for found in map(json_object, first) if isinstance(found, dict)]
    if not records and file.size:
        raise JobError(f"{file.path} is not JSON Lines: its first lines are no JSON objects")
    return records


def _common(name: str, of_files: Mapping[str, Any]) -> Any:
    """``of_files`` has the column's type by file. All of one type stay as they are."""
    firsts: dict[Any, str] = {}
    for path, kind in of_files.items():
        firsts.setdefault(kind, path)
    common, *others = firsts
    for kind in others:
        if (wider := _wider(common, kind)) is None:
            clashing = next((k for k in firsts if _wider(k, kind) is None), common)
            raise JobError(
                f"column {name!r} is {clashing} in {firsts[clashing]} and {kind} in "
                f"{firsts[kind]}, and no type holds both as they stand: make them one type"
            )
        common = wider
    return common


def _wider(one: Any, other: Any) -> Any:
    """Returns the type that holds the values of both as they stand; None when there is none."""
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
    """Arrow merges neither dictionaries nor views with what they stand for."""
    if types.is_dictionary(kind):
        return kind.value_type
    views = ((types.is_string_view, pa.string()), (types.is_binary_view, pa.binary()))
    return next((plain for test, plain in views if test(kind)), kind)


def _holds(wide: Any, kind: Any) -> bool:
    """Whether values that are cast to a type that Arrow finds wider read as before."""
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
    (low, high), (least, most) = _whole(kind), _whole(wide)
    if types.is_decimal(kind) and not types.is_decimal(wide):
        return False
    return least <= low and high <= most


def _holds_fields(wide: Any, kind: Any) -> bool:
    own = {field.name: field.type for field in _fields(kind)}
    return all(
        _holds(field.type, own[field.name]) if field.name in own else field.nullable
        for field in _fields(wide)
    )


def _fields(kind: Any) -> Iterator[Any]:
    return (kind.field(n) for n in range(kind.num_fields))


def _is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _whole(kind: Any) -> tuple[int, int]:
    """Returns the least and the greatest of the whole numbers that a type holds without a gap."""
    if types.is_floating(kind):
        most = 1 << _MANTISSA[kind.bit_width]
    elif types.is_decimal(kind):
        most = 10 ** (kind.precision - kind.scale) - 1
    else:
        signed = types.is_signed_integer(kind)
        most = (1 << (kind.bit_width - signed)) - 1
        return (-most - 1 if signed else 0), most
    return -most, most
