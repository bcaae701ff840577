"""Every type of Arrow and Parquet as an id and a kept column: as it was, or refused before any work."""

from __future__ import annotations

import datetime
import decimal
import uuid
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.dedupe import digests
from cluster.corpus.errors import JobError
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import plan_parts
from cluster.corpus.prepare.documents import Documents, Item
from cluster.corpus.read.rows import read_part
from cluster.corpus.settings import Settings
from cluster.corpus.write.assemble import assemble
from cluster.corpus.write.manifest import Identity, PartRecord, Source
from cluster.corpus.write.output import Output
from cluster.corpus.write.parquet import ids_of

LOCAL = pafs.LocalFileSystem()
IDENTITY = Identity("m", "r", "v", "s", "document", None, 2, True)
TEXT, I8 = pa.string(), pa.int8()
DAY, TIME = datetime.date(2026, 1, 2), datetime.time(10, 30, 1)
MOMENT, PERIOD = datetime.datetime(2026, 1, 2, 3, 4, 5), datetime.timedelta(seconds=5)
MOMENTS = [MOMENT, MOMENT + PERIOD]
UUIDS = [uuid.UUID(int=7), uuid.UUID(int=1 << 127)]
JSON = ['{"a": 1}', '[2, "b"]']

# types and two values of each
PLAIN = [
    *((kind, [1, 2]) for kind in (I8, pa.uint8(), pa.int32(), pa.uint32(), pa.int64())),
    (pa.uint64(), [1, 2**64 - 1]),
    *((kind, ["a", "é"]) for kind in (TEXT, pa.large_string(), pa.string_view())),
    *((kind, [b"a", b"\xff"]) for kind in (pa.binary(), pa.large_binary(), pa.binary_view())),
    (pa.binary(3), [b"abc", b"\xff\xfe\xfd"]),
    *((kind, [DAY, DAY.replace(year=1500)]) for kind in (pa.date32(), pa.date64())),
    *((kind, [TIME, TIME.replace(hour=1)]) for kind in (pa.time32("s"), pa.time64("ns"))),
    *((pa.timestamp(unit), MOMENTS) for unit in ("s", "ms", "us", "ns")),
    *((pa.timestamp("us", zone), MOMENTS) for zone in ("UTC", "Europe/Paris")),
    *((pa.duration(unit), [PERIOD, 2 * PERIOD]) for unit in ("s", "ns")),
    (pa.decimal32(5, 2), [decimal.Decimal("1.50"), decimal.Decimal("-2.25")]),
    (pa.decimal128(38, 0), [decimal.Decimal(10**37), decimal.Decimal(2)]),
    (pa.decimal256(50, 2), [decimal.Decimal("1.50"), decimal.Decimal("2.50")]),
    (pa.dictionary(pa.int8(), TEXT), ["a", "b"]),
    (pa.dictionary(pa.int32(), pa.int64()), [1, 2]),
    (pa.uuid(), [value.bytes for value in UUIDS]),
    (pa.json_(), JSON),
]
NO_IDS = [
    (pa.bool_(), [True, False]),
    *((kind, [0.5, 1.5]) for kind in (pa.float16(), pa.float32(), pa.float64())),
    *((kind, [[1], []]) for kind in (pa.list_(I8), pa.large_list(I8), pa.list_view(I8))),
    (pa.list_(pa.string_view()), [["a"], ["b", None]]),
    (pa.list_(pa.list_(pa.binary_view(), 1)), [[[b"a"]], [[b"b"]]]),
    (pa.list_(I8, 2), [[1, 2], [3, 4]]),
    (pa.list_(pa.uuid()), [[UUIDS[0].bytes], []]),
    (pa.list_(pa.dictionary(pa.int8(), TEXT)), [["a"], ["b"]]),
    (pa.struct([("a", I8), ("b", pa.string_view())]), [{"a": 1, "b": "x"}, {"a": 2, "b": None}]),
    (pa.struct([("a", pa.json_()), ("b", pa.uuid())]), [{"a": JSON[0]}, {"b": UUIDS[0].bytes}]),
    (pa.map_(TEXT, I8), [[("k", 1)], []]),
    (pa.map_(pa.string_view(), pa.list_(TEXT)), [[("k", ["v"])], []]),
    (pa.fixed_shape_tensor(pa.float32(), [2]), [[1.0, 2.0], [3.0, 4.0]]),
    (pa.bool8(), [1, 0]),
    (pa.opaque(I8, "kind", "vendor"), [1, 2]),
]


def array(kind: pa.DataType, values: list[object]) -> pa.Array:
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, TypeError):  # no builder: inside a list, for example
        return pa.array(values, storable(kind)).cast(kind)


def storable(kind: pa.DataType) -> pa.DataType:
    """The same type with storage types in place of extension types and plain types of views."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind.storage_type
    if pa.types.is_struct(kind):
        return pa.struct([(f.name, storable(f.type)) for f in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(storable(kind.key_type), storable(kind.item_type))
    if pa.types.is_list(kind):
        return pa.list_(storable(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(storable(kind.value_type), kind.list_size)
    views = {pa.string_view(): TEXT, pa.binary_view(): pa.binary()}
    return views.get(kind, kind)


def encoded(path: Path, folder: Path, **options) -> tuple[pa.Table, Output]:
    """What a job makes of a file, but for the vectors: the table that readers see."""
    settings = Settings(str(path), str(folder / "out"), "m", **options)
    inputs = find_inputs(settings.input)
    plan = plan_parts(inputs.filesystem, inputs.files, settings)
    (part,) = plan.parts
    rows = read_part(LOCAL, part, settings.text_column, plan.carried)
    documents = Documents([Item(row, 0, 1) for row in range(len(rows)) if rows.texts[row]], [])
    vectors = np.ones((len(documents.items), 2), np.float32)
    table, rejects, counts = assemble(part.file.name, rows, documents, vectors, settings)
    output = Output(LOCAL, settings.output)
    output.prepare()
    record = PartRecord(IDENTITY, {"columns": {}}, Source.of(part.file), counts)
    output.commit(part.name, table, rejects, record)
    assert (counts.rows, counts.written) == (len(rows), table.num_rows)
    assert counts.rejected == sum(counts.reasons.values()) == rejects.num_rows
    assert digests(output.ids(part.name)) == digests(ids_of(table))
    return pq.read_table(settings.output), output


def write(folder: Path, column: pa.Array) -> Path:
    texts = [f"text {n}" for n in range(len(column))]
    pq.write_table(pa.table({"text": texts, "c": column}), folder / "a.parquet")
    return folder / "a.parquet"


def read(path: Path) -> pa.ChunkedArray:
    """The column as pyarrow reads it from the input, without views."""
    column = pq.read_table(path)["c"]
    try:
        column.take([0])
    except pa.ArrowNotImplementedError:
        return column.cast(storable(column.type))
    return column


@pytest.mark.parametrize(("kind", "values"), [*PLAIN, *NO_IDS], ids=lambda v: str(v)[:40])
def test_a_kept_column_is_as_it_was(tmp_path, kind, values):
    path = write(tmp_path, array(kind, [*values, None]))
    table, _ = encoded(path, tmp_path, keep=("c",))
    before = read(path)
    assert table["c"].type == before.type
    assert table["c"].to_pylist() == before.to_pylist()
    parquet_kinds = [leaf_kinds(file) for file in (path, next((tmp_path / "out").iterdir()))]
    assert parquet_kinds[0] == parquet_kinds[1]


def leaf_kinds(path: Path) -> list[str]:
    schema = pq.read_metadata(path).schema
    leaves = [schema.column(n) for n in range(len(schema))]
    return [leaf.logical_type.type for leaf in leaves if leaf.path.split(".")[0] == "c"]


@pytest.mark.parametrize(("kind", "values"), PLAIN, ids=lambda v: str(v)[:40])
def test_an_id_is_as_it_was(tmp_path, kind, values):
    path = write(tmp_path, array(kind, [*values, values[0], None]))
    table, output = encoded(path, tmp_path, id_column="c")
    before = read(path)
    assert table["id"].type == before.type
    assert table["id"].to_pylist() == before.to_pylist()[:2]
    rejects = output.rejects(next((tmp_path / "out").iterdir()).name)
    reasons = rejects["reason"].to_pylist()
    assert reasons == ["duplicate id, first in a.parquet", "null in the id column 'c'"]


@pytest.mark.parametrize(("kind", "values"), NO_IDS, ids=lambda v: str(v)[:40])
def test_what_is_no_id_is_refused_before_any_work(tmp_path, kind, values):
    path = write(tmp_path, array(kind, values))
    with pytest.raises(JobError, match="--id-column c: ids must be text or whole numbers"):
        encoded(path, tmp_path, id_column="c")
    assert not (tmp_path / "out").exists()


def test_ids_of_type_uuid_are_uuids_for_every_reader(tmp_path):
    path = write(tmp_path, array(pa.uuid(), [value.bytes for value in UUIDS]))
    table, output = encoded(path, tmp_path, id_column="c")
    assert table["id"].to_pylist() == UUIDS
    ids = duckdb.sql(f"SELECT id FROM read_parquet('{output.root}/*')").fetchall()
    assert [row[0] for row in ids] == UUIDS


# what other programs write and Arrow alone does not
FOREIGN = "uuid() u, '{\"a\": 1}'::JSON j, TIME '10:00:00' t, {'a': 1} s, [1, 2] l, 'x' text"


def test_columns_that_duckdb_wrote_are_as_they_were(tmp_path):
    path = tmp_path / "a.parquet"
    duckdb.sql(f"COPY (SELECT {FOREIGN}) TO '{path}' (FORMAT parquet)")
    names = "u", "j", "t", "s", "l"
    _, output = encoded(path, tmp_path, keep=names, id_column="u")
    columns = f"SELECT {', '.join(names)}, typeof(u), typeof(j), typeof(s), typeof(l)"
    before = duckdb.sql(f"{columns} FROM read_parquet('{path}')").fetchall()
    assert duckdb.sql(f"{columns} FROM read_parquet('{output.root}/*')").fetchall() == before
    assert before[0][5:7] == ("UUID", "JSON")


def test_an_interval_is_refused_before_any_work(tmp_path):
    path = tmp_path / "a.parquet"
    duckdb.sql(f"COPY (SELECT 't' AS text, INTERVAL 3 DAY AS c) TO '{path}' (FORMAT parquet)")
    for options in ({"keep": ("c",)}, {"id_column": "c"}):
        with pytest.raises(
            JobError, match=r"column 'c' of .*a.parquet has Parquet's type INTERVAL"
        ):
            encoded(path, tmp_path, **options)
    assert encoded(path, tmp_path)[0].num_rows == 1  # the column is not needed


def test_two_fields_of_one_name_in_a_struct_are_refused_before_any_work(tmp_path):
    twice = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    path = write(tmp_path, pa.array([0]))
    table = pa.table({"text": ["t"], "c": pa.ListArray.from_arrays([0, 1], twice)})
    pq.write_table(table, path)
    with pytest.raises(JobError, match=r"column 'c' of .* has two fields 'a'"):
        encoded(path, tmp_path, keep=("c",))


class Money(pa.ExtensionType):
    """Known to the process that writes the input, and not to the job."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "test.money")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"EUR"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage, serialized):
        return cls()


def test_an_extension_type_that_nobody_knows_here_keeps_its_name(tmp_path):
    path = write(tmp_path, pa.ExtensionArray.from_storage(Money(), pa.array([5, 6])))
    encoded(path, tmp_path, keep=("c",), id_column="c")
    schema = pq.read_schema(next((tmp_path / "out").iterdir()))
    for name in ("id", "c"):
        assert schema.field(name).type == pa.int64()
        assert schema.field(name).metadata[b"ARROW:extension:name"] == b"test.money"


def test_files_of_other_extension_types_do_not_mix(tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in", pa.array([1])).rename(tmp_path / "in" / "b.parquet")
    write(tmp_path / "in", pa.ExtensionArray.from_storage(Money(), pa.array([5])))
    with pytest.raises(JobError, match=r"a.parquet and .*b.parquet"):
        encoded(tmp_path / "in", tmp_path, keep=("c",))
