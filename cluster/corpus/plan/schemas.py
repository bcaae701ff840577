"""The Arrow types of the carried columns, the same for all files of a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq
from pyarrow import types

from cluster.corpus.errors import JobError
from cluster.corpus.formats.columns import carried_field, extension_metadata, fitting
from cluster.corpus.formats.files import InputFile
from cluster.corpus.formats.records import RepeatedFields, json_object, text_lines
from cluster.corpus.settings import Settings

_SAMPLE_BYTES = 1 << 22
_SAMPLE_RECORDS = 1_000
_PLAIN = "NONE"  # a Parquet column without a logical type
_IMPLIED = (_PLAIN, "INT")  # said by the physical type alone, or by Arrow's type
_UTC = "isAdjustedToUTC"
_ID_EXTENSIONS = (pa.UuidType, pa.JsonType)
_LISTS: tuple[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]], ...] = (
    (types.is_list, lambda field, _: pa.list_(field)),
    (types.is_large_list, lambda field, _: pa.large_list(field)),
    (types.is_fixed_size_list, lambda field, kind: pa.list_(field, kind.list_size)),
)
_MANTISSA_BITS = {16: 11, 32: 24, 64: 53}


def sampled_schema(filesystem: Any, files: Sequence[InputFile], settings: Settings) -> Any:
    """Returns the Arrow schema of the carried columns of text files, from the first file with records.

    CSV columns are text; JSON Lines columns have the types that fit the first records. Raises JobError
    if a file cannot be read, or lacks a column or has it twice.
    """
    if files[0].format == "text":
        check_columns(["text"], settings, files[0].path)
    kinds: dict[str, Any] = dict.fromkeys(settings.columns, pa.string())
    if files[0].format == "json":
        samples = ((file, _json_sample(filesystem, file, settings)) for file in files)
        file, records = next((sample for sample in samples if sample[1]), (files[0], []))
        if records:
            check_columns(dict.fromkeys(key for r in records for key in r), settings, file.path)
        kinds = {name: fitting([r.get(name) for r in records]) for name in kinds}
    return _schema({name: pa.field(name, kind) for name, kind in kinds.items()}, settings)


def unified_schema(schemas: Mapping[str, Any], settings: Settings) -> Any:
    """Returns an Arrow schema that holds the carried columns of all Parquet files without loss.

    ``schemas`` holds each file's own schema by its path. Raises JobError if no such schema exists.
    """
    fields = {}
    for name in settings.columns:
        by_path = {path: schema.field(name) for path, schema in schemas.items()}
        kind = _without_views(_common(name, {path: field.type for path, field in by_path.items()}))
        fields[name] = pa.field(name, kind, metadata=_extension(name, by_path))
    return _schema(fields, settings)


def check_columns(columns: Iterable[str], settings: Settings, path: str) -> None:
    """Raises JobError if an option names a column that a file lacks or has twice."""
    names = list(columns)
    options = [*settings.text_columns.items()]
    options += [("--id-column", settings.id_column)] if settings.id_column else []
    options += [("--keep", column) for column in settings.keep]
    for option, column in options:
        if column not in names:
            raise JobError(
                f"{path} has no column {column!r} ({option}); it has {', '.join(names) or 'none'}"
            )
        if names.count(column) > 1:
            raise JobError(f"{path} has two columns {column!r} ({option}): rename one of them")


def check_parquet_types(metadata: Any, schema: Any, columns: Sequence[str], path: str) -> None:
    """Raises JobError if a column has a type that Arrow would write as another, such as an interval.

    ``metadata`` are the file's, ``schema`` is its schema in Arrow's types.
    """
    before = _leaf_kinds(metadata)
    for name in columns:
        field = schema.field(name)
        if (twice := _repeated_field(field.type)) is not None:
            raise JobError(
                f"column {name!r} of {path} has two fields {twice!r}: rename one of them, or leave the "
                "column out"
            )
        after = _leaf_kinds(parquet_metadata(pa.schema([field])))
        own = [kind for column, kind in before if column == name]
        for (_, kept), kind in zip(after, own, strict=True):
            if kind not in (kept, *_IMPLIED):
                raise JobError(
                    f"column {name!r} of {path} has Parquet's type {kind}, which would not be kept: "
                    "convert it, for example to text"
                )


def _leaf_kinds(metadata: Any) -> list[tuple[str, str]]:
    """Returns column and type of each leaf, where a nested column is several."""
    by_arrow = b"ARROW:schema" in (metadata.metadata or {})
    leaves = [metadata.schema.column(n) for n in range(len(metadata.schema))]
    return [(leaf.path.split(".")[0], _parquet_kind(leaf, by_arrow)) for leaf in leaves]


def _parquet_kind(leaf: Any, by_arrow: bool) -> str:
    kind: str = leaf.logical_type.type
    old: str = leaf.converted_type  # an interval has no other
    if kind == "TIME" and not by_arrow and json.loads(leaf.logical_type.to_json())[_UTC]:
        return "TIME of UTC"  # Arrow has no such type, though its earlier versions wrote it
    return old if kind in (_PLAIN, "UNKNOWN") and old != _PLAIN else kind


def parquet_metadata(schema: Any) -> Any:
    """Returns the metadata of a Parquet file with this Arrow schema and no rows."""
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema, sink)
    return pq.read_metadata(pa.BufferReader(sink.getvalue()))


def _repeated_field(kind: Any) -> str | None:
    names = [field.name for field in _fields(kind)] if types.is_struct(kind) else []
    twice = next((name for name in names if names.count(name) > 1), None)
    inner = (_repeated_field(f.type) for f in _fields(kind)) if types.is_nested(kind) else ()
    return twice or next(filter(None, inner), None)


def _without_views(kind: Any) -> Any:
    """Replaces views by their plain types, since Arrow cannot select rows of views."""
    plain = _plain(kind) if not types.is_dictionary(kind) else kind
    if types.is_map(kind):
        return pa.map_(*map(_without_views, (kind.key_type, kind.item_type)))
    if types.is_struct(kind):
        return pa.struct([f.with_type(_without_views(f.type)) for f in _fields(kind)])
    for test, around in _LISTS:
        if test(kind):
            return around(kind.value_field.with_type(_without_views(kind.value_type)), kind)
    return plain


def _extension(name: str, fields_by_path: Mapping[str, Any]) -> dict[bytes, bytes] | None:
    """Returns the metadata that make a column one of an extension type that Arrow does not know here."""
    firsts: dict[tuple[tuple[bytes, bytes], ...], str] = {}
    for path, field in fields_by_path.items():
        firsts.setdefault(tuple(sorted(extension_metadata(field).items())), path)
    if len(firsts) > 1:
        one, other, *_ = firsts.values()
        raise JobError(
            f"column {name!r} has other extension types in {one} and {other}: convert them to one type"
        )
    return dict(next(iter(firsts))) if firsts else None


def _schema(fields: Mapping[str, Any], settings: Settings) -> Any:
    ids = settings.id_column
    if ids is not None:
        _check_id_type(ids, fields[ids].type)
    return pa.schema([carried_field(field, ids) for field in fields.values()])


def _check_id_type(name: str, kind: Any) -> None:
    refused = (types.is_floating, types.is_nested, types.is_boolean)
    plain = kind.value_type if types.is_dictionary(kind) else kind
    is_extension = isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, _ID_EXTENSIONS)
    if is_extension or any(test(plain) for test in refused):
        raise JobError(
            f"--id-column {name}: ids must be text or whole numbers of 64 bits, but the column is "
            f"{kind}: convert it to text"
        )


def _json_sample(filesystem: Any, file: InputFile, settings: Settings) -> list[dict[str, Any]]:
    """Returns the first readable records; none if the file has only blank lines."""
    try:
        with filesystem.open_input_stream(file.path, compression=file.compression) as stream:
            first = _first_lines(stream)
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"{file.path} cannot be read: {error}") from error
    records = [record for record in map(json_object, first) if isinstance(record, dict)]
    if first and not records:
        raise JobError(f"{file.path} is not JSON Lines: none of its first lines is a JSON object")
    if records and isinstance(json_object(first[0]), dict):
        fault = RepeatedFields((*settings.text_columns.values(), *settings.columns)).fault(first[0])
        if fault is not None:
            raise JobError(f"the first record of {file.path} cannot be used: {fault}")
    return records


def _first_lines(stream: Any) -> list[bytes]:
    """Returns the first lines that are not blank: at least one, however long it is or far away."""
    head, offset, is_whole = b"", 0, False
    while not is_whole and not (len(head) >= _SAMPLE_BYTES and b"\n" in head.lstrip()):
        block = stream.read(_SAMPLE_BYTES)
        is_whole = not block
        head = head + block if head.strip() else block
        offset += len(block)
    lines = head if is_whole else head[: head.rfind(b"\n") + 1] or head
    is_start = offset == len(head)  # only there is a byte order mark
    return [line for _, line in text_lines(lines, 0 if is_start else 1)][:_SAMPLE_RECORDS]


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
