"""What an output folder does where nothing can be written, and what it holds."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs as pafs

from cluster.encoding.failures import JobError
from cluster.encoding.inputs import InputFile, resolve
from cluster.encoding.lance import check_lance
from cluster.encoding.manifest import Counts, Identity
from cluster.encoding.output import Output, ids_of, reject_table, vector_column
from cluster.encoding.parts import Part
from tests.small_disk import remount

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
    assert output.done(PART.name) is None
    assert output.begun() == set()
    rejects = reject_table([("d2", "a.txt", 8, "empty", "")])
    output.commit(PART.name, vectors(2), rejects, IDENTITY, Counts(rows=3, written=2, rejected=1))
    assert output.done(PART.name) == Counts(rows=3, written=2, rejected=1)
    assert output.ids(PART.name) == ids_of(vectors(2)) == ["d0", "d1"]
    assert output.vectors(PART.name).schema.field("embedding").type == pa.list_(pa.float32(), 2)
    assert output.rejects(PART.name)["id"].to_pylist() == ["d2"]
    assert output.begun() == {FILE.digest}
    output.clean()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_rejects", PART.name]


def test_rejects_alone_show_that_a_file_is_begun(tmp_path):
    output = Output(LOCAL, str(tmp_path / "out"), "_parts")
    output.prepare()
    folder = tmp_path / "out" / "_rejects"
    (folder / PART.name).write_bytes(b"")
    assert output.begun() == {FILE.digest}


def test_rejects_of_a_killed_attempt_do_not_stay(tmp_path):
    output = Output(LOCAL, str(tmp_path / "out"))
    output.prepare()
    rejects = reject_table([("d1", "a.txt", 4, "its replica died", "x")])
    output.commit(PART.name, vectors(1), rejects, IDENTITY, Counts())
    (tmp_path / "out" / PART.name).unlink()  # killed before the vectors stood there
    output.commit(PART.name, vectors(2), reject_table([]), IDENTITY, Counts())
    assert output.rejects(PART.name).num_rows == 0


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
    assert output.done(PART.name) is None
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
    with pytest.raises(JobError, match="writes to a disk, S3 or GCS, not mock"):
        check_lance(pafs._MockFileSystem())
