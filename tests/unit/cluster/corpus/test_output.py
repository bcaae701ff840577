"""What an output folder does where nothing can be written, and what it holds."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.formats.files import InputFile, resolve
from cluster.corpus.plan.parts import Part
from cluster.corpus.rejects import Reject, reject_table
from cluster.corpus.write.lance import NAME, check_lance, write_lance
from cluster.corpus.write.manifest import Counts, Identity
from cluster.corpus.write.output import Output, ids_of, vector_column
from tests.support.small_disk import remount

LOCAL = pafs.LocalFileSystem()
IDENTITY = Identity("m", "r", "v", "s", "document", None, 2, True)
FILE = InputFile("/in/a.txt", "a.txt", 9, 1, "text")
PART = Part(FILE, 0, 9, 9)


def vectors(rows: int):
    embedding = vector_column(np.ones((rows, 2), np.float32), "float32")
    return pa.table({"id": [f"d{i}" for i in range(rows)], "embedding": embedding})


def test_a_part_is_there_as_a_whole(tmp_path):
    output = Output(LOCAL, str(tmp_path / "out"))
    output.prepare()
    assert output.committed_counts(PART.name, IDENTITY) is None
    assert output.committed_files() == set()
    rejects = reject_table([Reject("d2", "a.txt", 8, "empty", "")])
    output.commit(PART.name, vectors(2), rejects, IDENTITY, Counts(rows=3, written=2, rejected=1))
    assert output.committed_counts(PART.name, IDENTITY) == Counts(rows=3, written=2, rejected=1)
    assert output.ids(PART.name) == ids_of(vectors(2)) == ["d0", "d1"]
    assert output.vectors(PART.name).schema.field("embedding").type == pa.list_(pa.float32(), 2)
    assert output.rejects(PART.name)["id"].to_pylist() == ["d2"]
    assert output.committed_files() == {FILE.digest}
    output.clean()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_rejects", PART.name]


def test_rejects_alone_show_that_a_file_is_begun(tmp_path):
    output = Output(LOCAL, str(tmp_path / "out"), "_parts")
    output.prepare()
    folder = tmp_path / "out" / "_rejects"
    (folder / PART.name).write_bytes(b"")
    assert output.committed_files() == {FILE.digest}


def test_rejects_of_a_killed_attempt_do_not_stay(tmp_path):
    output = Output(LOCAL, str(tmp_path / "out"))
    output.prepare()
    rejects = reject_table([Reject("d1", "a.txt", 4, "its replica died", "x")])
    output.commit(PART.name, vectors(1), rejects, IDENTITY, Counts())
    (tmp_path / "out" / PART.name).unlink()  # killed before the vectors stood there
    output.commit(PART.name, vectors(2), reject_table([]), IDENTITY, Counts())
    assert output.rejects(PART.name).num_rows == 0


@pytest.mark.parametrize(("one", "other"), [("", "_parts"), ("_parts", "")])
def test_what_another_format_has_committed_is_begun(tmp_path, one, other):
    first = Output(LOCAL, str(tmp_path), one)
    first.prepare()
    first.commit(PART.name, vectors(1), reject_table([]), IDENTITY, Counts())
    assert Output(LOCAL, str(tmp_path), other).committed_files() == {FILE.digest}
    with pytest.raises(JobError, match=r"holds parts of a job but no _manifest.json"):
        Output(LOCAL, str(tmp_path), other).manifest()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space_id": "t"}, "another space_id: choose"),
        ({"role": "query", "instruction": "Find"}, "another role and instruction: choose"),
        ({"dimensions": 1}, "another dimensions: choose"),
    ],
)
def test_a_part_of_other_vectors_is_not_done(tmp_path, change, words):
    output = Output(LOCAL, str(tmp_path))
    output.prepare()
    output.commit(PART.name, vectors(1), reject_table([]), IDENTITY, Counts())
    with pytest.raises(JobError, match=f"{PART.name} holds vectors with {words}"):
        output.committed_counts(PART.name, replace(IDENTITY, **change))


@pytest.mark.parametrize("content", [b"", bytes(500), b"PAR1"])
def test_a_torn_part_is_written_again(tmp_path, content):
    output = Output(LOCAL, str(tmp_path))
    output.prepare()
    (tmp_path / PART.name).write_bytes(content)
    assert output.committed_counts(PART.name, IDENTITY) is None
    output.commit(PART.name, vectors(1), reject_table([]), IDENTITY, Counts(rows=1))
    assert output.committed_counts(PART.name, IDENTITY) == Counts(rows=1)


def test_a_part_of_somebody_else_is_not_done(tmp_path):
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / PART.name)
    assert Output(LOCAL, str(tmp_path)).committed_counts(PART.name, IDENTITY) is None


def test_what_is_moved_into_place_is_on_the_disk(tmp_path, monkeypatch):
    synced = []

    def sync(handle):
        synced.append((Path(os.readlink(f"/proc/self/fd/{handle}")), (tmp_path / "f").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    output = Output(LOCAL, str(tmp_path))
    (tmp_path / "_tmp").mkdir()
    output._put(f"{tmp_path}/f", b"data")
    (draft, early), (folder, late) = synced
    assert (draft.parent, early) == (tmp_path / "_tmp", False)
    assert (folder, late) == (tmp_path, True)


def test_all_but_the_vectors_is_compressed(tmp_path):
    words = ["abcdefgh" * 50] * 1_000
    nested = [{"words": word, "list": [word]} for word in words]
    output = Output(LOCAL, str(tmp_path))
    output.prepare()
    table = vectors(1_000).append_column("plain", [words]).append_column("meta", [nested])
    output.commit(PART.name, table, reject_table([]), IDENTITY, Counts())
    group = pq.read_metadata(tmp_path / PART.name).row_group(0)
    columns = [group.column(n) for n in range(group.num_columns)]
    assert {c.path_in_schema: c.compression for c in columns} == {
        "id": "SNAPPY",
        "embedding.list.element": "UNCOMPRESSED",
        "plain": "SNAPPY",
        "meta.words": "SNAPPY",
        "meta.list.list.element": "SNAPPY",
    }
    assert (tmp_path / PART.name).stat().st_size < 50_000


def test_a_full_disk_is_known_before_any_work(small_disk):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1536 * 1024))
    output = Output(LOCAL, str(small_disk / "out"))
    with pytest.raises(JobError, match=r"disk/out cannot be written to.* No space left"):
        output.prepare()
    filler.unlink()
    output.prepare()


def test_a_disk_that_fills_up_holds_no_torn_file(small_disk):
    output = Output(LOCAL, str(small_disk / "out"))
    output.prepare()
    with pytest.raises(JobError, match=r"cannot be written to.* No space left"):
        output.commit(PART.name, vectors(500_000), reject_table([]), IDENTITY, Counts())
    assert output.committed_counts(PART.name, IDENTITY) is None
    assert not list((small_disk / "out" / "_tmp").iterdir())


def test_a_read_only_disk_is_known_before_any_work(small_disk):
    remount(small_disk, "ro")
    with pytest.raises(JobError, match=r"cannot be written to.* Read-only file system"):
        Output(LOCAL, str(small_disk / "out")).prepare()


def test_a_folder_of_others_is_refused_by_their_file(tmp_path):
    for name in (".DS_Store", "_SUCCESS", "report.txt"):
        (tmp_path / name).touch()
    output = Output(LOCAL, str(tmp_path))
    with pytest.raises(JobError, match=r"holds other files \(report.txt\)"):
        output.manifest()
    (tmp_path / "report.txt").unlink()
    assert output.manifest() is None


def test_keys_travel_with_the_file_system(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    found = options(resolve("s3://bucket/a?region=us-east-1")[0])
    assert (found["access_key"], found["secret_key"]) == ("key", "secret")
    assert found["endpoint_override"] == "http://127.0.0.1:9"
    own = options(resolve("s3://mine:own@bucket/a?region=us-east-1")[0])
    assert (own["access_key"], own["secret_key"]) == ("mine", "own")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert options(resolve("s3://bucket/a?region=us-east-1")[0])["access_key"] is None


def options(filesystem):
    return filesystem.__reduce__()[1][0]


def test_lance_knows_not_every_file_system():
    check_lance(LOCAL)
    with pytest.raises(JobError, match="can write to a disk, S3 or GCS, not to mock"):
        check_lance(pafs._MockFileSystem())


def test_lance_without_a_row_has_its_columns(tmp_path, monkeypatch):
    lance = pytest.importorskip("lance")
    output = Output(LOCAL, str(tmp_path), "_parts")
    output.prepare()
    output.commit(PART.name, vectors(0), reject_table([]), IDENTITY, Counts())

    class Parts:
        def count(self):
            return 0

    monkeypatch.setattr(ray.data, "read_parquet", lambda *_, **__: Parts())
    write_lance(output)
    table = lance.dataset(str(tmp_path / NAME)).to_table()
    assert table.num_rows == 0
    assert table.schema.equals(vectors(0).schema, check_metadata=True)


def test_a_commit_that_is_cut_short_has_rejects_but_no_vectors(tmp_path, monkeypatch):
    output = Output(LOCAL, str(tmp_path / "out"))
    output.prepare()
    put, written = output._put, []

    def killed_after_the_first(path, data):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        put(path, data)

    monkeypatch.setattr(output, "_put", killed_after_the_first)
    rejects = reject_table([Reject("d2", "a.txt", 8, "empty", "")])
    with pytest.raises(KeyboardInterrupt):
        output.commit(PART.name, vectors(2), rejects, IDENTITY, Counts())
    assert output.committed_counts(PART.name, IDENTITY) is None
    assert output.rejects(PART.name)["id"].to_pylist() == ["d2"]
