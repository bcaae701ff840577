"""The files of a corpus: which are read, which are named, and that none changes while it is read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus import worker
from cluster.corpus.errors import JobError
from cluster.corpus.formats.files import InputFile, check_unchanged
from cluster.corpus.formats.sources import source_of
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import Part
from cluster.corpus.settings import Settings
from cluster.corpus.worker import PartWorker
from cluster.corpus.write.output import Output

LOCAL = pafs.LocalFileSystem()
LINES = "".join(f"old {n:03d}\n" for n in range(200))


def names(location: object) -> list[str]:
    return [file.name for file in find_inputs(str(location))[1]]


def test_a_link_that_leads_back_up_is_not_followed(tmp_path):
    for place in ("a.txt", "below/b.txt", "other/c.txt"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("x\n")
    (tmp_path / "below" / "up").symlink_to(tmp_path)
    (tmp_path / "same").symlink_to(tmp_path / "other")
    expected = ["a.txt", "below/b.txt", "other/c.txt", "same/c.txt"]
    assert names(tmp_path) == names(f"{tmp_path}/**/*.txt") == expected


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("x\n")
    with pytest.raises(JobError, match=r"\\xff.txt' is not valid UTF-8"):
        find_inputs(str(tmp_path))
    with pytest.raises(JobError, match=r"\\udcff.txt' is not valid UTF-8"):
        find_inputs(f"{tmp_path}/\udcff.txt")
    with pytest.raises(JobError, match="cannot be used as OUTPUT"):
        Output(LOCAL, str(tmp_path)).check()


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """A worker of two parts of a file: its reading, which is all that is tried here."""
    monkeypatch.setattr(worker, "give_way", lambda: None)

    def of(file: Path) -> tuple[PartWorker, list[Part]]:
        settings = Settings(str(file), str(tmp_path / "out"), "m")
        _, (file_found,), _ = find_inputs(settings.input)
        parts = [Part(file_found, 0, 1, 1)]
        if file_found.format == "text":
            parts = [
                Part(file_found, 0, 800, 800),
                Part(file_found, 800, len(LINES), len(LINES) - 800),
            ]
        work = SimpleNamespace(
            settings=settings,
            inputs=LOCAL,
            carried=pa.schema([]),
            replicas=1,
            target=SimpleNamespace(replicas=1, workers=1),
        )
        return PartWorker(work), parts

    return of


def test_a_file_that_is_replaced_while_it_is_read_stops_the_job(encoder, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text(LINES)
    reads, parts = encoder(file)
    source = source_of(LOCAL, parts[0].file)
    assert reads._read(parts[0], source).texts[0] == "old 000"
    (tmp_path / "new").write_text(LINES.replace("old", "new"))
    (tmp_path / "new").replace(file)
    with pytest.raises(JobError, match=r"a.txt has changed while it was read.* again"):
        reads._read(parts[1], source)


def test_a_file_that_can_no_longer_be_read_has_changed(encoder, tmp_path):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["x"]}), file)
    reads, parts = encoder(file)
    file.write_bytes(b"other")
    with pytest.raises(JobError, match=r"a.parquet has changed"):
        reads._read(parts[0], source_of(LOCAL, parts[0].file))
    file.unlink()
    with pytest.raises(JobError, match=r"a.parquet has changed"):
        reads._read(parts[0], source_of(LOCAL, parts[0].file))


@pytest.mark.parametrize(
    ("kind", "later_ns", "changed"),
    [("local", 1, True), ("s3", 678_000_000, False), ("s3", 1_000_000_000, True)],
)
def test_a_store_may_tell_the_time_without_fractions(kind, later_ns, changed):
    file = InputFile("in/a.txt", "a.txt", 9, 5_000_000_000 + later_ns, "text")
    info = SimpleNamespace(size=9, mtime_ns=5_000_000_000)
    store = SimpleNamespace(type_name=kind, get_file_info=lambda path: info)
    same = replace(file, modified=5_000_000_000)
    check_unchanged(store, same)
    with pytest.raises(JobError, match="has changed"):
        check_unchanged(store, replace(same, size=8))
    if changed:
        with pytest.raises(JobError, match="has changed"):
            check_unchanged(store, file)
    else:
        check_unchanged(store, file)


def write_all(folder: Path, *file_names: str) -> None:
    for name in file_names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "x"}\n')


def test_files_that_are_not_read_are_counted_by_their_endings(tmp_path):
    write_all(
        tmp_path, "a.jsonl", "b.jsonlines", "sub/c.ndjson", "README.md", "notes.md", "LICENSE"
    )
    write_all(tmp_path, "_SUCCESS", ".a.jsonl.crc", "_tmp/d.jsonl")
    inputs = find_inputs(str(tmp_path))
    assert [file.name for file in inputs.files] == ["a.jsonl", "b.jsonlines", "sub/c.ndjson"]
    assert inputs.not_read == "6 files not read: 2 .md, 3 hidden, 1 without an ending"
    in_folder = sum(path.is_file() for path in tmp_path.rglob("*"))
    assert in_folder == len(inputs.files) + sum(map(len, inputs.skipped.values()))
    assert find_inputs(f"{tmp_path}/*.jsonl").not_read is None


@pytest.mark.parametrize("name", ["b.jsonl.xz", "b.csv.LZ4", "b.txt.zip"])
@pytest.mark.parametrize("options", [{}, {"input_format": "json"}])
def test_a_data_file_whose_compression_cannot_be_read_stops_the_job(tmp_path, name, options):
    write_all(tmp_path, "a.jsonl", name)
    with pytest.raises(JobError, match=f"{name} cannot be read: the compression"):
        find_inputs(str(tmp_path), **options)
    with pytest.raises(JobError, match=f"{name} cannot be read: the compression"):
        find_inputs(str(tmp_path / name), **options)


def test_a_data_file_that_cannot_be_opened_stops_the_job(tmp_path):
    write_all(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    for location in (tmp_path, tmp_path / "b.jsonl", f"{tmp_path}/*.jsonl"):
        with pytest.raises(JobError, match=r"b.jsonl cannot be read: it is a broken link"):
            find_inputs(str(location))
    (tmp_path / "b.jsonl").unlink()
    os.mkfifo(tmp_path / "b.jsonl")
    with pytest.raises(JobError, match=r"b.jsonl cannot be read: it is not a regular file"):
        find_inputs(str(tmp_path))


def test_a_broken_link_without_a_data_ending_is_counted(tmp_path):
    write_all(tmp_path, "a.jsonl")
    (tmp_path / "more").symlink_to(tmp_path / "gone")
    assert find_inputs(str(tmp_path)).not_read == "1 file not read: 1 broken links"


def test_a_folder_without_data_names_what_it_holds(tmp_path):
    write_all(tmp_path, "README.md")
    with pytest.raises(JobError, match=r"no input files: .*\(1 file not read: 1 .md\)"):
        find_inputs(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "delimiter", "expected"),
    [("a.csv", None, ","), ("a.tsv", None, "\t"), ("a.TSV.gz", None, "\t"), ("a.csv", ";", ";")],
)
def test_the_delimiter_of_csv(tmp_path, name, delimiter, expected):
    write_all(tmp_path, name)
    (file,) = find_inputs(str(tmp_path), delimiter=delimiter).files
    assert (file.format, file.delimiter) == ("csv", expected)


def test_a_delimiter_for_other_files_is_refused(tmp_path):
    write_all(tmp_path, "a.jsonl")
    with pytest.raises(JobError, match="--delimiter is for CSV"):
        find_inputs(str(tmp_path), delimiter=";")


def test_the_job_folder_of_another_output_is_not_read_as_data(tmp_path):
    part = Part(InputFile("", "", 0, 0, "parquet"), 0, 1, 1).name
    write_all(tmp_path, "a.parquet", f"old/{part}", "nightly.job/b.parquet", f"jobs/{part}")
    write_all(tmp_path, f"old.job/rejects/{part}", f"old.job/parts/{part}", "old.job/manifest.json")
    write_all(tmp_path, f"sub/new.job/rejects/{part}", "sub/new.job/tmp/0123abcd")
    write_all(tmp_path, "sub/new.job/locks/0123abcd.json")
    read = ["a.parquet", f"jobs/{part}", "nightly.job/b.parquet", f"old/{part}"]
    inputs = find_inputs(str(tmp_path))
    assert [file.name for file in inputs.files] == read
    assert inputs.not_read == "6 files not read: 6 in the job folder of another output"
    assert names(f"{tmp_path}/**/*.parquet") == read
    assert names(tmp_path / "old.job" / "rejects") == [part]  # to encode them once more
