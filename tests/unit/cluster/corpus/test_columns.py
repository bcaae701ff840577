"""What a column carries reads as what stood in the file, or the row says why it does not."""

from __future__ import annotations

import json
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.formats.columns import carried_field, column, fitting
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import Plan, plan_parts
from cluster.corpus.read.rows import Rows, read_part
from cluster.corpus.settings import Settings

KEYS = st.sampled_from("ab")
WHOLE = st.integers(-(2**63), 2**64 - 1)
LEAVES = (
    st.none()
    | st.booleans()
    | WHOLE
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("é1", max_size=2)
)
JSON = st.recursive(
    LEAVES, lambda v: st.lists(v, max_size=2) | st.dictionaries(KEYS, v), max_leaves=4
)
INT, FLOAT, TEXT = pa.int64(), pa.float64(), pa.string()


def as_it_reads(value: object) -> object:
    """Equal for what reads the same: 1 and 1.0 do, 1 and true do not, nor does a struct tell keys that
    are null from those that are not there.
    """
    if isinstance(value, dict):
        return {key: as_it_reads(v) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return list(map(as_it_reads, value))
    return (isinstance(value, bool), value)


@given(sample=st.lists(JSON, max_size=4), later=st.lists(JSON, max_size=4))
def test_a_value_is_carried_as_it_stands_or_its_row_is_rejected(sample, later):
    kind = fitting(sample)
    values, faults = [*sample, *later], {}
    array = column(values, pa.field("c", kind), faults)
    assert array.type == kind
    assert all(row >= len(sample) for row in faults)
    for row, (value, read) in enumerate(zip(values, array.to_pylist(), strict=True)):
        expected = None if row in faults else value
        if kind == TEXT and not isinstance(expected, str | None):
            expected = orjson.dumps(expected).decode()
        assert as_it_reads(expected) == as_it_reads(read)


@given(sample=st.lists(JSON, max_size=4))
def test_what_is_carried_can_be_written(sample):
    kind = fitting(sample)
    table = pa.table({"c": column(sample, pa.field("c", kind), {})})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    assert (
        pq.read_table(pa.BufferReader(sink.getvalue()))["c"].to_pylist() == table["c"].to_pylist()
    )


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (INT, 1.9),
        (INT, True),
        (FLOAT, True),
        (FLOAT, 2**53 + 1),
        (pa.uint64(), -1),
        (pa.bool_(), 1),
        (pa.list_(INT), [1, 1.9]),
        (pa.list_(FLOAT), [True]),
        (pa.struct([("a", INT)]), {"a": 1, "c": 2}),
        (pa.struct([("a", INT)]), {"a": 1.5}),
        (pa.struct([("a", INT)]), []),
        (pa.list_(pa.struct([("a", INT)])), [{"c": None}]),
    ],
)
def test_what_would_read_otherwise_is_rejected(kind, value):
    faults: dict[int, str] = {}
    assert column([None, value, None], pa.field("c", kind), faults).to_pylist() == [None] * 3
    assert faults == {1: f"column 'c' does not fit {kind}"}


def test_what_reads_the_same_is_carried():
    faults: dict[int, str] = {0: "broken"}
    assert column([5, 1.5], pa.field("c", FLOAT), faults).to_pylist() == [5.0, 1.5]
    kind = pa.struct([("a", INT), ("b", TEXT)])
    values_kept = column([{"b": "x"}, {}], pa.field("c", kind), faults).to_pylist()
    assert values_kept == [{"a": None, "b": "x"}, {"a": None, "b": None}]
    assert faults == {0: "broken"}


@pytest.mark.parametrize(
    ("sample", "kind"),
    [
        ([1, None], INT),
        ([5, 2**63], pa.uint64()),
        ([2**64 - 1], pa.uint64()),
        ([-1, 2**63], TEXT),
        ([1, 1.5], FLOAT),
        ([1.5, True], TEXT),
        ([2**53 + 1, 0.5], TEXT),
        (["1999", 1999], TEXT),
        ([{"a": 2**63}], TEXT),
        ([{"a": 1}, {"b": "x"}], pa.struct([("a", INT), ("b", TEXT)])),
        ([{}, {}], TEXT),
        ([[{}]], TEXT),
        ([[]], pa.list_(pa.null())),
        ([None, None], TEXT),
        ([], TEXT),
    ],
)
def test_the_type_that_fits_a_sample(sample, kind):
    assert fitting(sample) == kind


def test_text_takes_any_value_as_its_json_text():
    faults: dict[int, str] = {}
    values = ["a", 2**64 - 1, 1.5, True, None, {"b": [1, "é"]}]
    values_kept = column(values, pa.field("c", TEXT), faults).to_pylist()
    assert values_kept == ["a", "18446744073709551615", "1.5", "true", None, '{"b":[1,"é"]}']
    assert faults == {}


def nested(levels: int) -> object:
    return orjson.loads(b"[" * levels + b"]" * levels)


def test_a_column_that_is_nested_deeply_is_text():
    assert fitting([nested(100)]) == TEXT
    assert column([nested(100)], pa.field("c", TEXT), {}).to_pylist() == ["[" * 100 + "]" * 100]


def test_values_that_are_too_deep_are_rejected_alone():
    deep = nested(900)
    faults: dict[int, str] = {}
    assert fitting([deep]) == TEXT
    assert column([deep, "a"], pa.field("c", TEXT), faults).to_pylist() == [None, "a"]
    assert faults == {0: "column 'c' does not fit string"}


@pytest.mark.parametrize("kind", [TEXT, INT])
@pytest.mark.parametrize("value", [1e24, 5.0, True, [1], {"a": 1}])
def test_an_id_is_text_or_a_whole_number(kind, value):
    faults: dict[int, str] = {}
    values_kept = column([7, value], carried_field(pa.field("id", kind), "id"), faults).to_pylist()
    assert values_kept == ["7" if kind == TEXT else 7, None]
    assert faults == {1: "id in column 'id' is neither text nor a whole number of 64 bits"}


def jsonl(path: Path, values: list[str]) -> Path:
    path.write_text("".join(f'{{"text": "t", "c": {value}}}\n' for value in values))
    return path


def planned(path: Path, **options) -> Plan:
    filesystem, files, _ = find_inputs(str(path))
    return plan_parts(filesystem, files, Settings(str(path), "out", "m", **options))


def read(path: Path, **options) -> Rows:
    plan = planned(path, **options)
    (part,) = plan.parts
    return read_part(pafs.LocalFileSystem(), part, "text", plan.carried)


def test_values_after_the_sample_are_never_cut(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ["1"] * 1_000 + ["1.9", "2"])
    rows = read(path, keep=("c",))
    assert rows.carried["c"].to_pylist()[999:] == [1, None, 2]
    assert rows.faults == {1000: "column 'c' does not fit int64"}


def test_the_first_file_with_records_decides_the_types(tmp_path):
    jsonl(tmp_path / "a.jsonl", [])
    jsonl(tmp_path / "b.jsonl", ["1"])
    assert planned(tmp_path, keep=("c",)).carried.field("c").type == INT


def test_ids_beyond_64_bits_are_rejected_rather_than_merged(tmp_path):
    big = ["123456789012345678901234", "123456789012345678901235"]
    rows = read(jsonl(tmp_path / "a.jsonl", ['"x"', "7", *big]), id_column="c")
    assert rows.carried["c"].to_pylist() == ["x", "7", None, None]
    assert list(rows.faults) == [2, 3]
    assert read(tmp_path / "a.jsonl", keep=("c",)).faults == {}
    rows = read(jsonl(tmp_path / "b.jsonl", ["7", str(2**64 - 1)]), id_column="c")
    assert rows.carried["c"].to_pylist() == [7, 2**64 - 1]
    assert rows.faults == {}


@pytest.mark.parametrize("values", [["1.5"], ["7", str(10**24)], ['{"a": 1}'], ["[1]"], ["true"]])
def test_ids_of_another_kind_are_refused_before_any_work(tmp_path, values):
    path = jsonl(tmp_path / "a.jsonl", values)
    with pytest.raises(JobError, match=r"--id-column c: ids must be text or whole numbers"):
        planned(path, id_column="c")
    assert read(path, keep=("c",)).faults == {}


def test_json_lines_of_something_else(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}], indent=1))
    with pytest.raises(JobError, match="is not JSON Lines"):
        planned(tmp_path / "a.json")
    with pytest.raises(JobError, match=r"has no column 'd' \(--keep\); it has text, c"):
        planned(jsonl(tmp_path / "a.jsonl", ["1"]), keep=("d",))
