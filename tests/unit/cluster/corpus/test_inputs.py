"""The files of a corpus: which are taken, what their names may be, and that they stay as they are."""

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
    found = ["a.txt", "below/b.txt", "other/c.txt", "same/c.txt"]
    assert names(tmp_path) == names(f"{tmp_path}/**/*.txt") == found


def test_a_name_that_is_not_utf8_is_named(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.txt")).write_text("x\n")
    with pytest.raises(JobError, match=r"\\xff.txt' is not valid UTF-8"):
        find_inputs(str(tmp_path))
    with pytest.raises(JobError, match=r"\\udcff.txt' is not valid UTF-8"):
        find_inputs(f"{tmp_path}/\udcff.txt")
    with pytest.raises(JobError, match="cannot be used as OUTPUT"):
        Output(LOCAL, str(tmp_path)).manifest()


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """A worker of two parts of a file: its reading, which is all that is tried here."""
    monkeypatch.setattr(worker, "give_way", lambda: None)

    def of(file: Path) -> tuple[PartWorker, list[Part]]:
        settings = Settings(str(file), str(tmp_path / "out"), "m")
        _, (found,) = find_inputs(settings.input)
        parts = [Part(found, 0, 1, 1)]
        if found.format == "text":
            parts = [Part(found, 0, 800, 800), Part(found, 800, len(LINES), len(LINES) - 800)]
        work = SimpleNamespace(
            settings=settings, inputs=LOCAL, carried=pa.schema([]), replicas=1, workers=1
        )
        return PartWorker(work), parts

    return of


def test_a_file_that_is_replaced_meanwhile_is_no_longer_cut(encoder, tmp_path):
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
