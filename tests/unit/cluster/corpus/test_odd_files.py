"""Files as other programs write them: empty, with blank lines, NaN, repeated names, other delimiters."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.formats.records import RepeatedFields, json_object
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import Plan, plan_parts
from cluster.corpus.plan.schemas import _SAMPLE_BYTES
from cluster.corpus.read.rows import Rows, read_part
from cluster.corpus.settings import Settings

RECORD = '{"text": "t", "n": 1}\n'


def planned(path: Path, **options) -> Plan:
    settings = Settings(str(path), "out", "m", **options)
    inputs = find_inputs(settings.input, delimiter=settings.delimiter)
    return plan_parts(inputs.filesystem, inputs.files, settings)


def read(path: Path, **options) -> Rows:
    plan = planned(path, **options)
    (part,) = plan.parts
    return read_part(pafs.LocalFileSystem(), part, options.get("text_column", "text"), plan.carried)


EMPTY = {
    "a.jsonl": b"",
    "b.jsonl": b"\n \n\r\n",
    "c.jsonl.gz": gzip.compress(b""),  # as Spark writes it
    "d.jsonl.gz": gzip.compress(b"\n\n"),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_json_file_without_records_is_passed_over(tmp_path, name, place):
    (tmp_path / name).write_bytes(EMPTY[name])
    (tmp_path / ("z.jsonl" if place == "first" else "0.jsonl")).write_text(RECORD)
    plan = planned(tmp_path, keep=("n",))
    assert plan.carried.field("n").type == pa.int64()
    assert len(plan.parts) == 1


def test_blank_lines_before_the_first_record_do_not_hide_it(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n" * (_SAMPLE_BYTES + 5) + RECORD)
    assert planned(tmp_path, keep=("n",)).carried.field("n").type == pa.int64()


def test_a_byte_order_mark_belongs_at_the_start_of_a_file(tmp_path):
    marked = '\ufeff{"text": "t", "n": "a"}\n'
    (tmp_path / "start.jsonl").write_text(marked + RECORD)
    (tmp_path / "later.jsonl").write_text("\n" * _SAMPLE_BYTES + marked + RECORD)
    kinds = [
        planned(tmp_path / f"{name}.jsonl", keep=("n",)).carried.field("n").type
        for name in ("start", "later")
    ]
    assert kinds == [pa.string(), pa.int64()]


def test_a_first_record_that_is_longer_than_the_sample_is_read_whole(tmp_path):
    record = json.dumps({"text": "x" * (_SAMPLE_BYTES + 5), "n": 1})
    (tmp_path / "a.jsonl").write_text(f"{record}\n{RECORD}")
    assert planned(tmp_path, keep=("n",)).carried.field("n").type == pa.int64()


@pytest.mark.parametrize("content", [b"", b"\n\n", gzip.compress(b"")])
def test_a_csv_file_without_records_is_passed_over(tmp_path, content):
    name = "a.csv.gz" if content.startswith(b"\x1f") else "a.csv"
    (tmp_path / name).write_bytes(content)
    (tmp_path / "b.csv").write_text("text,n\nx,1\n")
    assert [part.file.name for part in planned(tmp_path, keep=("n",)).parts] == ["b.csv"]


def test_a_parquet_file_without_rows_may_lack_columns(tmp_path):
    pq.write_table(pa.table({}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["t"], "n": [1]}), tmp_path / "b.parquet")
    assert [part.file.name for part in planned(tmp_path, keep=("n",)).parts] == ["b.parquet"]


def test_a_corpus_of_empty_files_is_called_that(tmp_path):
    for name, content in EMPTY.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError, match="holds no rows"):
        planned(tmp_path, keep=("n",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,n,text\nx,1,y\n"),
        ("a.jsonl", '{"text": "x", "n": 1, "text": "y"}\n'),
        ("a.jsonl", '{"n": 1, "text": "x", "n": 2}\n'),
    ],
)
def test_two_columns_of_one_name_are_refused_before_any_work(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(JobError, match=rf"{name}.* two (columns|fields) '(text|n)'"):
        planned(tmp_path, keep=("n",))


def test_a_name_that_is_not_used_may_stand_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,,\nx,1,y\n")
    (tmp_path / "a.jsonl").write_text('{"text": "x", "u": 1, "u": 2}\n')
    assert read(tmp_path / "a.csv").texts == ["x"]
    assert read(tmp_path / "a.jsonl").texts == ["x"]


def test_a_later_record_with_a_field_twice_is_rejected_alone(tmp_path):
    (tmp_path / "a.jsonl").write_text(RECORD + '{"text": "x", "text": "y"}\n' + RECORD)
    assert read(tmp_path / "a.jsonl").faults == {1: "broken record: two fields 'text'"}


@pytest.mark.parametrize(
    ("line", "twice"),
    [
        (b'{"text": "a", "text" : "b"}', True),
        (b'{"text": "a", "meta": {"text": "b"}}', False),
        (b'{"text": "\\"text\\": 1", "type": "text"}', False),
        ('{"é": 1, "é": 2}'.encode(), True),
        (b'{"text": NaN, "text": 1}', True),
    ],
)
def test_fields_are_counted_at_the_top_alone(line, twice):
    assert (RepeatedFields(["text", "é"]).fault(line) is not None) == twice


def test_nan_in_another_field_does_not_reject_a_row(tmp_path):
    lines = ['{"text": "a", "n": NaN}', '{"text": "b", "n": -Infinity}', '{"text": "c", "n": 1.5}']
    lines += ['{"text": NaN, "n": 1}', '{"text": "e", "n": 1, "list": [NaN, 1]}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows = read(tmp_path / "a.jsonl", keep=("n", "list"))
    first, *others = rows.carried["n"].to_pylist()
    assert math.isnan(first)
    assert others == [-math.inf, 1.5, 1.0, 1.0]
    assert rows.faults == {}
    assert [str(text) for text in rows.texts] == ["a", "b", "c", "nan", "e"]
    assert math.isnan(rows.carried["list"].to_pylist()[4][0])


def test_nan_in_a_column_of_text_is_not_null(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "n": "x"}\n{"text": "b", "n": {"k": [NaN]}}\n')
    assert read(tmp_path / "a.jsonl", keep=("n",)).carried["n"].to_pylist() == ["x", '{"k":[NaN]}']


@pytest.mark.parametrize("line", [b"{broken", b'{"a": nan}', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_rejected(line):
    assert str(json_object(line)).startswith("broken record: not JSON")


def test_integers_beyond_64_bits_are_floats_beside_nan_too():
    big = 10**30
    for line in (f'{{"a": {big}}}', f'{{"a": {big}, "b": NaN}}'):
        assert json_object(line.encode())["a"] == float(big)


@pytest.mark.parametrize(
    ("name", "options", "delimiter"),
    [("a.tsv", {}, "\t"), ("a.csv", {"delimiter": ";"}, ";"), ("a.tsv", {"delimiter": "|"}, "|")],
)
def test_csv_with_another_delimiter(tmp_path, name, options, delimiter):
    lines = [delimiter.join(row) for row in (["text", "n"], ['"a\nb,c"', "1"], ['12" pizza', "2"])]
    (tmp_path / name).write_text("\n".join(lines) + "\n")
    plan = planned(tmp_path, keep=("n",), part_mb=1e-6, **options)
    rows = [read_part(pafs.LocalFileSystem(), p, "text", plan.carried) for p in plan.parts]
    assert [text for part in rows for text in part.texts] == ["a\nb,c", '12" pizza']
    assert [n for part in rows for n in part.carried["n"].to_pylist()] == ["1", "2"]
    assert len(rows) > 1


@pytest.mark.parametrize("delimiter", ["", ";;", "é", "\n", '"'])
def test_what_is_no_delimiter_is_refused(delimiter):
    with pytest.raises(JobError, match="--delimiter must be one ASCII character"):
        Settings("in", "out", "m", delimiter=delimiter)
