"""CSV as people write it: where its records end, and what is done with those that are broken."""

from __future__ import annotations

import csv
import gzip
import io
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyarrow import fs as pafs

from cluster.corpus.errors import JobError
from cluster.corpus.formats import records
from cluster.corpus.formats.files import InputFile
from cluster.corpus.formats.records import csv_records, cut_file, part_size
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import Plan, plan_parts
from cluster.corpus.read.rows import Rows, read_part
from cluster.corpus.settings import Settings

MEMORY = pafs._MockFileSystem()
ALONE = "broken record: new-line character seen in unquoted field"


def cuts_of(data: bytes, target: int, block: int = 1 << 20) -> list[int]:
    with MEMORY.open_output_stream("a.csv") as stream:
        stream.write(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_BLOCK", block)
        return cut_file(MEMORY, InputFile("a.csv", "a.csv", len(data), 1, "csv"), target)


def parsed(data: bytes, cuts: list[int]) -> list[tuple[int, list[str] | str]]:
    return [record for a, b in pairwise(cuts) for record in csv_records(data[a:b], a)]


@given(
    rows=st.lists(st.lists(st.text(alphabet='a,"\n\r', max_size=6), min_size=2, max_size=2)),
    target=st.integers(1, 40),
    block=st.integers(1, 7),
)
def test_parts_hold_whole_records_of_a_writer(rows, target, block):
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    data = buffer.getvalue().encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "_parsed_starts", lambda *_: pytest.fail("not needed"))
        cuts = cuts_of(data, target, block)
    assert [fields for _, fields in parsed(data, cuts)] == rows


@given(
    text=st.text(alphabet='a,"\n \r', max_size=60),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
    target=st.integers(1, 40),
    block=st.integers(1, 7),
)
@example('a"\n"a\n', b"", 1, 1)
@example('"a"\ra,"\na\n', b"", 1, 3)
@example('"\r"\n', b"\xef\xbb\xbf", 1, 7)
def test_parts_hold_the_records_of_the_whole(text, mark, target, block):
    data = mark + text.encode()
    cuts = cuts_of(data, target, block)
    assert cuts[-1] == len(data)
    assert parsed(data, cuts) == parsed(data, [0, len(data)])
    sizes = [b - a for a, b in pairwise(cuts[:-1])]
    assert all(size >= part_size(target, n) for n, size in enumerate(sizes))


@given(data=st.binary(max_size=40), target=st.integers(1, 9), block=st.integers(1, 7))
def test_parts_hold_the_records_of_any_bytes(data, target, block):
    assert parsed(data, cuts_of(data, target, block)) == parsed(data, [0, len(data)])


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (b'a,"b ""c"" d"\r\n"","e\nf"\n', True),
        (b'\xef\xbb\xbf"a",b\n', True),
        (b'"a\rb",c\n', True),
        (b'a 12" pizza\n', False),
        (b'"a"b"c"\n', False),
        (b'x\xbf"a\n', False),
        (b'a\rb,"c\n', False),
        (b'"a"\r"b"\n', False),
    ],
)
@pytest.mark.parametrize("block", [1, 2, 3, 5, 1 << 20])
def test_quotes_are_only_counted_where_that_finds_the_records(data, plain, block, monkeypatch):
    used = []
    slow = records._parsed_starts
    monkeypatch.setattr(records, "_parsed_starts", lambda *args: used.append(1) or slow(*args))
    cuts_of(data, 1, block)
    if not data.startswith(b"\xef") or block >= 3:  # a stream gives less at its end alone
        assert used == ([] if plain else [1])


def planned(path: Path, **options) -> Plan:
    filesystem, files, _ = find_inputs(str(path))
    return plan_parts(filesystem, files, Settings(str(path), "out", "m", **options))


def read(path: Path, **options) -> list[Rows]:
    plan = planned(path, **options)
    return [read_part(pafs.LocalFileSystem(), p, "text", plan.carried) for p in plan.parts]


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_a_quote_within_a_field_turns_nothing_around(tmp_path, ending):
    rows = "".join(f'{n},"first line of {n}\nsecond line of {n}"\n' for n in range(1, 200))
    data = f'id,text\n0,a 12" pizza\n{rows}'.encode()
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    rows = read(path, part_mb=0.0001, id_column="id")
    assert len(rows) > 50
    assert [fault for rows in rows for fault in rows.faults] == []
    assert [text for rows in rows for text in rows.texts] == [
        'a 12" pizza',
        *(f"first line of {n}\nsecond line of {n}" for n in range(1, 200)),
    ]


@pytest.mark.parametrize("size", [0.000001, 2.0])
def test_a_broken_record_is_a_row_that_could_not_be_read(tmp_path, size):
    (tmp_path / "a.csv").write_bytes(b'id,text\n1,one\n2,"a\nb"\rc\n3,three\n4,f\rour\n5,five\r\n')
    rows = read(tmp_path / "a.csv", part_mb=size, id_column="id")
    assert [text for rows in rows for text in rows.texts] == ["one", None, "three", None, "five"]
    assert [p for rows in rows for p in rows.positions] == [8, 14, 24, 32, 40]
    assert [reason for rows in rows for reason in rows.faults.values()] == [ALONE, ALONE]


def test_a_broken_record_counts_for_the_limit(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\n1,o\rne\n2,two\n3,three\n")
    rows = read(tmp_path / "a.csv", limit=2, part_mb=0.000001)
    assert [text for rows in rows for text in rows.texts] == [None, "two"]


def test_lines_that_end_in_carriage_returns_alone_are_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\r1,one\r2,two\r")
    message = r"a\.csv is malformed .*: convert the file's line ends to \\n"
    with pytest.raises(JobError, match=message):
        planned(tmp_path / "a.csv")


def test_csv_columns_are_text(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,one\n")
    assert planned(tmp_path, id_column="id").carried == pa.schema([("id", pa.string())])
