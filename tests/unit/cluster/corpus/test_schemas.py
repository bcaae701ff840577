"""One type of each carried column for all Parquet files of a corpus, which holds every value."""

from __future__ import annotations

import datetime
import decimal
import uuid
from itertools import permutations
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import Plan, plan_parts
from cluster.corpus.plan.schemas import _wider
from cluster.corpus.read.rows import read_part
from cluster.corpus.settings import Settings

I8, I32, I64, U32, U64 = pa.int8(), pa.int32(), pa.int64(), pa.uint32(), pa.uint64()
F32, F64, TEXT, WORDS = pa.float32(), pa.float64(), pa.string(), pa.dictionary(I32, pa.string())


def fixed(name: str, kind: pa.DataType) -> pa.DataType:
    return pa.struct([pa.field(name, kind, nullable=False)])


BLANK = {fixed("a", I64): {"a": 1}, fixed("b", I64): {"b": 1}}  # of others it is null


def write(folder: Path, *arrays: pa.Array) -> Path:
    """A file for each array, in column ``c``."""
    for number, array in enumerate(arrays):
        table = pa.table({"text": pa.array(["t"] * len(array), TEXT), "c": array})
        pq.write_table(table, folder / f"{number}.parquet")
    return folder


def planned(folder: Path, **options) -> Plan:
    filesystem, files, _ = find_inputs(str(folder))
    return plan_parts(filesystem, files, Settings(str(folder), "out", "m", **options))


def read(folder: Path, **options) -> tuple[pa.DataType, list[object]]:
    """The type and the values of column ``c``, part by part."""
    plan = planned(folder, **(options or {"keep": ("c",)}))
    tables = [
        read_part(pafs.LocalFileSystem(), p, "text", plan.carried).carried for p in plan.parts
    ]
    assert {table["c"].type for table in tables} == {plan.carried.field("c").type}
    return plan.carried.field("c").type, [v for table in tables for v in table["c"].to_pylist()]


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (pa.array([1], I8), pa.array([2**40], I64), I64),
        (pa.array([-1], I32), pa.array([2**32 - 1], U32), I64),
        (pa.array([7], U64), pa.array([1], U32), U64),
        (pa.array([1.5], F32), pa.array([0.1], F64), F64),
        (pa.array([2**31 - 1], I32), pa.array([0.5], F64), F64),
        (pa.nulls(1), pa.array(["v"]), TEXT),
        (pa.array(["v"]), pa.array(["w"], pa.large_string()), pa.large_string()),
        (pa.array(["v"]).dictionary_encode(), pa.array(["w"]), TEXT),
        (pa.array(["v"]), pa.array(["w"], pa.string_view()), TEXT),
        (pa.array([b"v"]), pa.array([b"w"], pa.binary_view()), pa.binary()),
        (pa.array([b"ab"], pa.binary(2)), pa.array([b"abc"]), pa.binary()),
        (pa.array([5], pa.timestamp("ms")), pa.array([5], pa.timestamp("us")), pa.timestamp("us")),
        (
            pa.array([decimal.Decimal("1.25")], pa.decimal128(5, 2)),
            pa.array([decimal.Decimal("123456.5")], pa.decimal128(7, 1)),
            pa.decimal128(8, 2),
        ),
        (
            pa.array([decimal.Decimal("1.25")], pa.decimal128(5, 2)),
            pa.array([7], I8),
            pa.decimal128(5, 2),
        ),
        (pa.array([[]], pa.list_(pa.null())), pa.array([["v"]]), pa.list_(TEXT)),
        (pa.array([[1]], pa.list_(I8)), pa.array([[2**40]]), pa.list_(I64)),
        (
            pa.array([{"a": 1, "b": "x"}], pa.struct([("a", I8), ("b", TEXT)])),
            pa.array([{"c": "y", "a": 2**40}], pa.struct([("c", TEXT), ("a", I64)])),
            pa.struct([("a", I64), ("b", TEXT), ("c", TEXT)]),
        ),
        (
            pa.array([[("k", 1)]], pa.map_(TEXT, I8)),
            pa.array([[("k", 2**40)]], pa.map_(TEXT, I64)),
            pa.map_(TEXT, I64),
        ),
    ],
    ids=str,
)
def test_types_of_one_kind_become_one_that_holds_them_all(tmp_path, one, other, kind):
    wide, values = read(write(tmp_path, one, other))
    assert wide == kind
    pairs = zip([*one.to_pylist(), *other.to_pylist()], values, strict=True)
    for value, carried in pairs:
        struct = isinstance(value, dict)
        assert value == ({key: carried[key] for key in value} if struct else carried)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (I64, TEXT),
        (I64, U64),
        (I8, U64),
        (I64, F64),
        (I64, F32),
        (F32, pa.decimal128(5, 2)),
        (I64, pa.decimal128(5, 2)),
        (TEXT, pa.binary()),
        (pa.large_string(), pa.binary(3)),
        (WORDS, I64),
        (pa.bool_(), I8),
        (pa.timestamp("us"), pa.timestamp("us", "UTC")),
        (pa.list_(I64), pa.list_(F64)),
        (pa.struct([("a", I64)]), pa.struct([("a", U64)])),
        (pa.struct([("a", I64)]), pa.struct([("a", TEXT)])),
        (pa.list_(pa.struct([("a", I64)])), pa.list_(pa.struct([("a", F64)]))),
        (pa.map_(TEXT, I64), pa.map_(TEXT, U64)),
        (fixed("a", I64), fixed("b", I64)),
    ],
    ids=str,
)
@pytest.mark.parametrize("turned", [False, True])
def test_types_that_no_other_holds_are_refused_before_any_work(tmp_path, one, other, turned):
    kinds = (other, one) if turned else (one, other)
    write(tmp_path, *(pa.array([BLANK.get(kind)], kind) for kind in kinds))
    names = [str(pq.read_schema(tmp_path / f"{n}.parquet").field("c").type) for n in (0, 1)]
    with pytest.raises(JobError) as refused:
        planned(tmp_path, keep=("c",))
    assert f"column 'c' is {names[0]} in {tmp_path}/0.parquet and {names[1]} in" in str(
        refused.value
    )
    assert f"in {tmp_path}/1.parquet, and no type holds both" in str(refused.value)
    planned(tmp_path)  # the column is not asked for


LEAVES = [
    *(pa.null(), pa.bool_(), I8, pa.uint8(), I32, U32, I64, U64, pa.float16(), F32, F64),
    *(TEXT, pa.large_string(), pa.string_view(), WORDS, pa.dictionary(I8, pa.large_string())),
    *(pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.binary(4), pa.uuid()),
    *(pa.date32(), pa.date64(), pa.time32("ms"), pa.time64("ns"), pa.duration("s")),
    *(pa.timestamp("ms"), pa.timestamp("ns"), pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC")),
    *(pa.decimal128(5, 2), pa.decimal128(20, 0), pa.decimal256(50, 2)),
]


@pytest.mark.parametrize(
    "around",
    [
        lambda kind: kind,
        pa.list_,
        pa.large_list,
        lambda kind: pa.list_(kind, 2),
        lambda kind: pa.struct([("a", kind)]),
        lambda kind: pa.map_(TEXT, kind),
    ],
)
def test_every_widened_type_can_be_cast_to(around):
    """Else a job would end in the middle."""
    for one, other in permutations(map(around, LEAVES), 2):
        if (wide := _wider(one, other)) is not None:
            assert pa.nulls(1, one).cast(wide) == pa.nulls(1, other).cast(wide)


def test_the_two_files_that_clash_are_named(tmp_path):
    write(tmp_path, pa.array([1], I32), pa.array([1], I64), pa.array([2], I64), pa.array([0.5]))
    with pytest.raises(JobError, match=r"int64 in .*1.parquet and double in .*3.parquet"):
        planned(tmp_path, keep=("c",))


@pytest.mark.parametrize("kind", [WORDS, I8, F32, fixed("a", I8), pa.null()])
def test_files_of_one_type_keep_it(tmp_path, kind):
    values = {I8: 1, F32: 0.5, pa.null(): None}.get(kind, {"a": 1} if kind.num_fields else "v")
    kept, carried = read(write(tmp_path, *[pa.array([values], kind)] * 3))
    assert kept == kind
    assert carried == [values] * 3


def test_two_columns_of_one_name_are_refused(tmp_path):
    table = pa.table([["t"], [1], [2]], names=["text", "c", "c"])
    pq.write_table(table, tmp_path / "0.parquet")
    for options in ({"keep": ("c",)}, {"id_column": "c"}, {"text_column": "c"}):
        with pytest.raises(JobError, match=r"0\.parquet has two columns 'c'"):
            planned(tmp_path, **options)
    planned(tmp_path)  # the columns are not needed


def test_a_file_without_rows_does_not_decide_the_type(tmp_path):
    assert read(write(tmp_path, pa.array([], TEXT), pa.array([1]))) == (I64, [1])


@pytest.mark.parametrize(
    "values",
    [
        pa.array([7], U64),
        pa.array(["a"]).dictionary_encode(),
        pa.array([b"ab"]),
        pa.array([b"ab"], pa.binary(2)),
        pa.array([uuid.UUID(int=7).bytes], pa.uuid()),
        pa.array([decimal.Decimal("1.50")]),
        pa.array([datetime.date(2026, 1, 2)]),
        pa.array([datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)]),
        pa.nulls(1),
    ],
    ids=lambda values: str(values.type),
)
def test_ids_of_parquet(tmp_path, values):
    assert read(write(tmp_path, values), id_column="c") == (values.type, values.to_pylist())


@pytest.mark.parametrize(
    "values",
    [
        pa.array([0.5]),
        pa.array([0.5], F32),
        pa.array([{"a": 1}]),
        pa.array([["a"]]),
        pa.array([True]),
    ],
    ids=lambda values: str(values.type),
)
def test_columns_that_cannot_hold_ids(tmp_path, values):
    folder = write(tmp_path, values)
    with pytest.raises(JobError, match="--id-column c: ids must be text or whole numbers"):
        planned(folder, id_column="c")
    assert read(folder) == (values.type, values.to_pylist())
