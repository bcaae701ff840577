"""Where a corpus is cut, and what is found there."""

from __future__ import annotations

import csv
import gzip
import importlib
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.formats import records
from cluster.corpus.formats.files import format_of
from cluster.corpus.plan import parts
from cluster.corpus.plan.inputs import find_inputs, matches
from cluster.corpus.plan.parts import Part, plan_parts
from cluster.corpus.read.rows import read_part
from cluster.corpus.settings import Settings

LOCAL = pafs.LocalFileSystem()


def settings(path: Path, **options) -> Settings:
    return Settings(str(path), "out", "m", **options)


def planned(path: Path, **options) -> list[Part]:
    filesystem, files, _ = find_inputs(str(path))
    return plan_parts(filesystem, files, settings(path, **options)).parts


def texts(path: Path, **options) -> list[object]:
    """All texts of a corpus, read part by part."""
    values: list[object] = []
    for part in planned(path, **options):
        values += read_part(LOCAL, part, options.get("text_column", "text"), pa.schema([])).texts
    return values


@pytest.mark.parametrize("size", [0.00001, 0.00005, 1.0])
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "txt", "parquet"])
def test_every_record_is_in_exactly_one_part(tmp_path, ending, size):
    wanted = [f"text number {i}, né {'x' * (i % 7)}" for i in range(50)]
    path = tmp_path / f"corpus.{ending}"
    write(path, wanted)
    assert texts(path, part_mb=size) == wanted
    assert texts(path, part_mb=size, limit=7) == wanted[:7]


def write(path: Path, values: list[str]) -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": values}), path, row_group_size=13)
        return
    lines = {
        ".jsonl": [json.dumps({"text": v}) for v in values],
        ".gz": [json.dumps({"text": v}) for v in values],
        ".csv": ["text", *[f'"{v}"' for v in values]],
        ".txt": values,
    }[path.suffix]
    data = "\n".join([*lines, ""]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def test_parquet_parts_are_sized_by_their_text_alone(tmp_path):
    columns = {"text": [f"{n:010d}" for n in range(1_000)]}
    sizes = []
    for name, others in (("bare", {}), ("wide", {"blob": [f"{n}" * 200 for n in range(1_000)]})):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({**columns, **others}), path, use_dictionary=False)
        sizes.append([part.stop - part.start for part in planned(path, part_mb=0.002)])
    assert sizes[0] == sizes[1]
    assert len(sizes[0]) > 3


def test_the_plan_and_the_names_are_the_same_on_every_run(tmp_path):
    write(tmp_path / "a.jsonl", ["one", "two"] * 50)
    write(tmp_path / "b.jsonl", ["three"] * 50)
    first = planned(tmp_path, part_mb=0.0002)
    assert first == planned(tmp_path, part_mb=0.0002)
    assert len({part.name for part in first}) == len(first)
    assert [Part.from_row(json.loads(json.dumps(p.as_row()))) for p in first] == first


@pytest.mark.parametrize("ending", ["txt", "jsonl", "jsonl.gz", "csv", "parquet"])
def test_a_part_of_short_texts_holds_so_many_rows(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(parts, "_MAX_ROWS", 100)
    wanted = [f"{i:05d}" for i in range(1_000)]
    path = tmp_path / f"corpus.{ending}"
    write(path, wanted)
    assert 10 <= len(planned(path)) <= 14
    assert texts(path) == wanted


def test_a_record_at_the_end_without_a_newline(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo")
    assert texts(tmp_path / "a.txt", part_mb=0.000001) == ["one", "two"]


def test_byte_order_mark_and_carriage_returns(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,n\r\nhello,1\r\n")
    assert texts(tmp_path / "a.csv") == ["hello"]


def test_long_csv_fields_change_nothing_for_who_only_imports(tmp_path):
    (tmp_path / "a.csv").write_text("text\n" + "x" * 200_000 + "\n")
    csv.field_size_limit(100_000)
    importlib.reload(records)
    assert csv.field_size_limit() == 100_000
    assert texts(tmp_path / "a.csv") == ["x" * 200_000]


def test_bad_records_of_line_formats(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"text": "good", "n": 1}\nnot json\n[1]\n{"text": 5}\n{"text": "n", "n": "x"}\n'
    )
    (part,) = planned(path, keep=("n",))
    rows = read_part(LOCAL, part, "text", pa.schema([("n", pa.int64())]))
    assert rows.texts == ["good", None, None, 5, "n"]
    assert list(rows.faults) == [1, 2, 4]
    assert rows.faults[4] == "column 'n' does not fit int64"
    assert rows.carried["n"].to_pylist() == [1, None, None, None, None]


def test_a_parquet_column_with_broken_unicode(tmp_path):
    raw = pa.array([b"good", b"\xff\xfe", None]).cast(pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["good", b"\xff\xfe", None]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"title\nx\n", "has no column 'text' (--text-column); it has title"),
        ("a.parquet", b"nonsense", "cannot be read"),
        ("a.jsonl.gz", b"nonsense", "cannot be read"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.csv", b"text\n", "holds no rows"),
        ("a.txt", b"\n\n", "holds no rows"),
        ("a.dat", b"x", "set --input-format"),
    ],
)
def test_what_is_known_before_any_work(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(JobError) as refused:
        planned(tmp_path / name)
    assert message in str(refused.value)


def test_a_column_that_is_no_text(tmp_path):
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(JobError, match="is int64, not text"):
        planned(tmp_path)


def test_folders_globs_and_endings(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "a.jsonl", ["a"])
    write(tmp_path / "deep" / "b.jsonl", ["b"])
    write(tmp_path / "c.txt", ["c"])
    (tmp_path / "_hidden.jsonl").write_text("x")
    assert texts(tmp_path / "*.jsonl") == ["a"]
    assert texts(tmp_path / "**/*.jsonl") == ["a", "b"]
    assert texts(tmp_path / "deep") == ["b"]
    with pytest.raises(JobError, match="mixes json and text"):
        planned(tmp_path)
    with pytest.raises(JobError, match="there is no"):
        planned(tmp_path / "absent")


def names(location: Path, output: Path | None = None) -> list[str]:
    _, files, _ = find_inputs(str(location), output=str(output) if output else None)
    return [file.name for file in files]


@pytest.mark.parametrize("hidden", ["_rejects", ".cache", "deep/_rejects"])
def test_nothing_within_a_hidden_folder_is_read(tmp_path, hidden):
    base = tmp_path / "_corpus"  # the folder that was asked for may be called anything
    (base / hidden).mkdir(parents=True)
    write(base / "a.parquet", ["a"])
    write(base / hidden / "b.parquet", ["b"])
    assert names(base) == names(base / "**" / "*.parquet") == ["a.parquet"]
    assert names(base / hidden) == names(base / hidden / "b.parquet") == ["b.parquet"]


def test_the_jobs_own_output_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "vectors").mkdir()
    write(tmp_path / "a.parquet", ["a"])
    write(tmp_path / "vectors" / "part.parquet", ["b"])
    write(tmp_path / "vectors2.parquet", ["c"])
    others = ["a.parquet", "vectors2.parquet"]
    assert names(tmp_path, tmp_path / "vectors") == others
    assert names(tmp_path / "**" / "*.parquet", tmp_path / "vectors") == others
    monkeypatch.chdir(tmp_path / "vectors")
    assert names(Path(".."), Path()) == others
    assert names(tmp_path / "vectors", tmp_path) == ["part.parquet"]
    assert names(tmp_path / "vectors", tmp_path / "vectors") == ["part.parquet"]


def test_matching_and_formats():
    assert matches("/a/*.csv", "/a/b.csv")
    assert not matches("/a/*.csv", "/a/b/c.csv")
    assert format_of("x/y.CSV.gz") == ("csv", "gzip")
    assert format_of("y.parquet") == ("parquet", None)
