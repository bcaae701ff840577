"""The output folder and the job folder: what they hold, damage to them, and disks that are full."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError, PartDamaged
from cluster.corpus.formats.files import InputFile, resolve
from cluster.corpus.plan.parts import Part
from cluster.corpus.rejects import Reject, reject_table
from cluster.corpus.write.lance import check_lance, write_lance
from cluster.corpus.write.manifest import Counts, Identity, Manifest, PartRecord, Source
from cluster.corpus.write.output import Output, open_output
from cluster.corpus.write.parquet import ids_of, vector_column
from tests.support.object_stores import s3_server, store_server
from tests.support.small_disk import remount

LOCAL = pafs.LocalFileSystem()
IDENTITY = Identity("m", "r", "v", "s", "document", None, 2, True)
FILE = InputFile("/in/a.txt", "a.txt", 9, 1, "text")
PART = Part(FILE, 0, 9, 9)


SETTINGS = {"keep": [], "columns": {}}


def vectors(rows: int):
    embedding = vector_column(np.ones((rows, 2), np.float32), "float32")
    return pa.table({"id": [f"d{i}" for i in range(rows)], "embedding": embedding})


def rejects(rows: int):
    return reject_table(Reject(f"r{i}", "a.txt", i, "empty", "") for i in range(rows))


def record(written: int, rejected: int = 0, identity: Identity = IDENTITY) -> PartRecord:
    counts = Counts(rows=written + rejected, written=written, rejected=rejected)
    return PartRecord(identity, SETTINGS, Source.of(FILE), counts)


def commit(output: Output, written: int, rejected: int = 0) -> Counts:
    """Commits a part of so many rows and returns its counts."""
    output.prepare()
    about = record(written, rejected)
    output.commit(PART.name, vectors(written), rejects(rejected), about)
    return about.counts


@pytest.fixture
def output(tmp_path) -> Output:
    return Output(LOCAL, str(tmp_path / "out"))


def committed(output: Output) -> Counts | None:
    return output.committed_counts(PART.name, IDENTITY)


def test_a_part_is_there_as_a_whole(tmp_path, output):
    output.prepare()
    assert committed(output) is None
    assert output.committed_files() == set()
    counts = commit(output, 2, 1)
    assert committed(output) == counts
    assert output.ids(PART.name) == ids_of(vectors(2)) == ["d0", "d1"]
    assert output.vectors(PART.name).schema.field("embedding").type == pa.list_(pa.float32(), 2)
    assert output.rejects(PART.name)["id"].to_pylist() == ["r0"]
    assert output.committed_files() == {FILE.digest}


@pytest.mark.parametrize("sink", ["parquet", "lance"])
def test_the_output_folder_holds_vectors_and_nothing_else(tmp_path, sink):
    output = Output(LOCAL, str(tmp_path / "out"), sink)
    commit(output, 2, 1)
    output.write_manifest(Manifest(IDENTITY, SETTINGS, {}))
    output.clean()
    beside = {"rejects", "manifest.json"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    if sink == "lance":
        pytest.importorskip("lance")
        write_lance(output)
        names, beside = {path.name for path in (tmp_path / "out").iterdir()}, beside | {"parts"}
    assert names == {PART.name if sink == "parquet" else "vectors.lance"}
    assert {path.name for path in (tmp_path / "out.job").iterdir()} == beside


def test_a_part_whose_rows_are_all_rejected_has_no_file_of_vectors(tmp_path, output):
    counts = commit(output, 0, 3)
    assert not list((tmp_path / "out").iterdir())
    assert committed(output) == counts
    assert output.ids(PART.name) == []
    assert output.committed_files() == {FILE.digest}


def test_a_part_that_loses_its_last_row_to_the_rejects_loses_its_file(tmp_path, output):
    commit(output, 1)
    counts = commit(output, 0, 1)
    assert not list((tmp_path / "out").iterdir())
    assert committed(output) == counts


def test_rejects_of_an_attempt_that_was_killed_do_not_stay(tmp_path, output):
    commit(output, 1, 1)
    (tmp_path / "out" / PART.name).unlink()  # killed before the vectors were in place
    assert committed(output) is None
    assert output.committed_files() == {FILE.digest}
    commit(output, 2)
    assert output.rejects(PART.name).num_rows == 0


@pytest.mark.parametrize(("one", "other"), [("parquet", "lance"), ("lance", "parquet")])
def test_parts_of_the_other_format_count_as_committed(tmp_path, one, other):
    commit(Output(LOCAL, str(tmp_path / "out"), one), 1)
    assert Output(LOCAL, str(tmp_path / "out"), other).committed_files() == {FILE.digest}


@pytest.mark.parametrize("damage", ["missing", "torn", "of another shape"])
def test_a_manifest_is_made_again_from_the_parts(tmp_path, output, damage):
    commit(output, 2, 1)
    file = tmp_path / "out.job" / "manifest.json"
    if damage != "missing":
        file.write_bytes(b'{"embedfleet": 1' if damage == "torn" else b'{"embedfleet": 2}')
    said: list[str] = []
    assert output.manifest(said.append) == Manifest(IDENTITY, SETTINGS, {"a.txt": (9, 1)})
    assert str(file) in said[0]


def test_a_manifest_is_made_again_from_rejects_alone(tmp_path, output):
    commit(output, 0, 1)
    assert output.manifest(print).inputs == {"a.txt": (9, 1)}


def test_parts_that_say_nothing_about_themselves_are_refused(tmp_path, output):
    output.prepare()
    (tmp_path / "out" / PART.name).write_bytes(b"")
    with pytest.raises(JobError, match="neither a manifest nor metadata"):
        output.manifest(print)


def test_missing_rejects_make_a_part_damaged(tmp_path, output):
    commit(output, 2, 1)
    (tmp_path / "out.job" / "rejects" / PART.name).unlink()
    with pytest.raises(PartDamaged, match=r"rejected rows of a.txt are missing"):
        committed(output)


def test_missing_rejects_of_a_part_without_vectors_undo_it(tmp_path, output):
    commit(output, 0, 1)
    (tmp_path / "out.job" / "rejects" / PART.name).unlink()
    assert committed(output) is None


def test_rejects_that_cannot_be_read_make_a_part_damaged(tmp_path, output):
    commit(output, 2, 1)
    (tmp_path / "out.job" / "rejects" / PART.name).write_bytes(b"PAR1")
    with pytest.raises(PartDamaged, match=f"rejects/{PART.name} cannot be read"):
        committed(output)


def test_more_rejects_than_counted_are_of_a_job_that_was_killed(output):
    """`dedupe.py` writes them before it shortens the vectors."""
    counts = commit(output, 2, 1)
    output._put(f"{output.rejects_folder}/{PART.name}", pa_bytes(rejects(2)))
    assert committed(output) == counts


def pa_bytes(table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_ids_that_cannot_be_read_make_a_part_damaged(tmp_path, output):
    counts = commit(output, 2)
    path = tmp_path / "out" / PART.name
    data = bytearray(path.read_bytes())
    data[4:60] = bytes(56)
    path.write_bytes(data)
    assert committed(output) == counts  # the end of the file is whole
    with pytest.raises(PartDamaged, match=f"{PART.name} cannot be read"):
        output.ids(PART.name)


@pytest.mark.parametrize("edit", ["rows", "metadata"])
def test_a_part_that_another_program_has_changed_is_refused(tmp_path, output, edit):
    commit(output, 2)
    path = tmp_path / "out" / PART.name
    table = pq.read_table(path)
    table = table.slice(0, 1) if edit == "rows" else table.replace_schema_metadata(None)
    pq.write_table(table, path)
    with pytest.raises(JobError, match=f"{PART.name} was changed by another program"):
        committed(output)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"space_id": "t"}, "another space_id: choose"),
        ({"role": "query", "instruction": "Find"}, "another role and instruction: choose"),
        ({"dimensions": 1}, "another dimensions: choose"),
    ],
)
def test_a_part_of_other_vectors_is_not_done(output, change, words):
    commit(output, 1)
    with pytest.raises(JobError, match=f"{PART.name} holds vectors with {words}"):
        output.committed_counts(PART.name, replace(IDENTITY, **change))


@pytest.mark.parametrize("content", [b"", bytes(500), b"PAR1"])
def test_a_torn_part_is_written_again(tmp_path, output, content):
    output.prepare()
    (tmp_path / "out" / PART.name).write_bytes(content)
    with pytest.raises(PartDamaged, match=f"{PART.name} cannot be read"):
        committed(output)
    assert commit(output, 1) == committed(output)


def test_a_file_is_on_the_disk_before_it_is_moved_into_place(tmp_path, monkeypatch):
    synced = []

    def sync(handle):
        synced.append((Path(os.readlink(f"/proc/self/fd/{handle}")), (tmp_path / "f").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    output = Output(LOCAL, str(tmp_path / "out"))
    (tmp_path / "out.job" / "tmp").mkdir(parents=True)
    output._put(f"{tmp_path}/f", b"data")
    (draft, early), (folder, late) = synced
    assert (draft.parent, early) == (tmp_path / "out.job" / "tmp", False)
    assert (folder, late) == (tmp_path, True)


def test_all_columns_but_the_vectors_are_compressed(tmp_path):
    words = ["abcdefgh" * 50] * 1_000
    nested = [{"words": word, "list": [word]} for word in words]
    output = Output(LOCAL, str(tmp_path / "out"))
    output.prepare()
    table = vectors(1_000).append_column("plain", [words]).append_column("meta", [nested])
    output.commit(PART.name, table, rejects(0), record(1_000))
    path = tmp_path / "out" / PART.name
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(n) for n in range(group.num_columns)]
    assert {c.path_in_schema: c.compression for c in columns} == {
        "id": "SNAPPY",
        "embedding.list.element": "UNCOMPRESSED",
        "plain": "SNAPPY",
        "meta.words": "SNAPPY",
        "meta.list.list.element": "SNAPPY",
    }
    assert path.stat().st_size < 50_000


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
        commit(output, 500_000)
    assert committed(output) is None
    assert not list((small_disk / "out.job" / "tmp").iterdir())


def test_a_read_only_disk_is_known_before_any_work(small_disk):
    remount(small_disk, "ro")
    with pytest.raises(JobError, match=r"cannot be written to.* Read-only file system"):
        Output(LOCAL, str(small_disk / "out")).prepare()


def test_the_top_folder_of_a_disk_is_refused(small_disk):
    with pytest.raises(JobError, match=r"is the top folder of a disk.*/vectors"):
        Output(LOCAL, str(small_disk)).prepare()


def test_a_bucket_is_refused():
    with pytest.raises(JobError, match=r"is a whole bucket: .*bucket/vectors"):
        open_output("s3://bucket?region=us-east-1", "parquet")


def test_the_job_folder_stands_beside_the_folder_that_a_link_leads_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "out")
    assert open_output(str(tmp_path / "link"), "parquet").job == f"{tmp_path}/disk/out.job"


def test_files_of_something_else_are_refused_by_name(tmp_path, output):
    output.prepare()
    for name in (".DS_Store", "_SUCCESS", "report.txt"):
        (tmp_path / "out" / name).touch()
    with pytest.raises(JobError, match=r"out holds report.txt, which no corpus job has written"):
        output.check()
    (tmp_path / "out" / "report.txt").unlink()
    output.check()
    assert output.manifest(print) is None
    commit(output, 1)
    pq.write_table(vectors(1), tmp_path / "out" / "more.parquet")
    with pytest.raises(JobError, match=r"out holds more.parquet"):
        output.check()


def test_an_output_of_an_earlier_version_is_refused(tmp_path, output):
    output.prepare()
    (tmp_path / "out" / "_manifest.json").write_text("{}")
    with pytest.raises(JobError, match="an earlier version"):
        output.check()


def test_keys_of_the_environment_go_into_the_file_system(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    from_environment = options(resolve("s3://bucket/a?region=us-east-1")[0])
    assert (from_environment["access_key"], from_environment["secret_key"]) == ("key", "secret")
    assert from_environment["endpoint_override"] == "http://127.0.0.1:9"
    own = options(resolve("s3://mine:own@bucket/a?region=us-east-1")[0])
    assert (own["access_key"], own["secret_key"]) == ("mine", "own")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert options(resolve("s3://bucket/a?region=us-east-1")[0])["access_key"] is None


def options(filesystem):
    return filesystem.__reduce__()[1][0]


def test_lance_refuses_file_systems_that_it_does_not_know():
    check_lance(LOCAL)
    with pytest.raises(JobError, match="can write to a disk, S3 or GCS, not to mock"):
        check_lance(pafs._MockFileSystem())


def test_lance_holds_the_rows_of_all_parts(tmp_path):
    lance = pytest.importorskip("lance")
    output = Output(LOCAL, str(tmp_path / "out"), "lance")
    output.prepare()
    write_lance(output)
    assert not (tmp_path / "out" / "vectors.lance").exists()
    commit(output, 3)
    for _ in range(2):
        write_lance(output)
        table = lance.dataset(str(tmp_path / "out" / "vectors.lance")).to_table()
        assert table.equals(vectors(3))
        assert not table.schema.metadata


def test_lance_on_a_full_disk_keeps_the_parts_and_commits_nothing(small_disk):
    lance = pytest.importorskip("lance")
    remount(small_disk, "size=2500k")  # enough for the parts
    output = Output(LOCAL, str(small_disk / "out"), "lance")
    commit(output, 100_000)
    (small_disk / "filler").write_bytes(bytes(500_000))
    with pytest.raises(JobError, match="No space left on device") as stopped:
        write_lance(output)
    assert f"{small_disk}/out/vectors.lance cannot be written" in str(stopped.value)
    with pytest.raises(ValueError, match="not found"):
        lance.dataset(str(small_disk / "out" / "vectors.lance"))
    remount(small_disk, "size=64m")
    write_lance(output)
    assert lance.dataset(str(small_disk / "out" / "vectors.lance")).count_rows() == 100_000


@pytest.fixture(scope="module")
def s3():
    with pytest.MonkeyPatch.context() as patch, s3_server() as address:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield address


@pytest.fixture(scope="module")
def gcs():
    pytest.importorskip("gcp_storage_emulator")
    options = ("start", "-q", "-M", "--default-bucket", "corpus", "-H", "127.0.0.1", "--port")
    with store_server("gcp_storage_emulator", *options) as address:
        yield address


S3 = "s3://corpus/{}?endpoint_override={}&scheme=http&region=us-east-1"
GCS = "gs://anonymous@corpus/{}?endpoint_override={}&scheme=http&retry_limit_seconds=10"


@pytest.mark.parametrize(("store", "uri"), [("s3", S3), ("gcs", GCS)])
def test_an_output_on_an_object_store_is_locked_and_committed_as_on_a_disk(request, store, uri):
    output = open_output(uri.format("out", request.getfixturevalue(store)), "parquet")
    output.check()
    with output.lock().held(print):
        assert output.manifest(print) is None
        counts = commit(output, 2, 1)
        with pytest.raises(JobError, match="another job is writing to corpus/out"):
            output.check()
        second = pytest.raises(JobError, match="another job is writing to corpus/out")
        with second, output.lock().held(print):
            pass
    assert committed(output) == counts
    assert output.ids(PART.name) == ["d0", "d1"]
    output.check()
    with output.lock().held(print):
        assert output.manifest(print) == Manifest(IDENTITY, SETTINGS, {"a.txt": (9, 1)})


def test_lance_on_s3(s3):
    lance = pytest.importorskip("lance")
    output = open_output(S3.format("lance", s3), "lance")
    commit(output, 2)
    write_lance(output)
    options = {
        "aws_endpoint": f"http://{s3}",
        "allow_http": "true",
        "aws_region": "us-east-1",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
    }
    vectors = lance.dataset("s3://corpus/lance/vectors.lance", storage_options=options)
    assert vectors.count_rows() == 2


def test_a_commit_that_is_cut_short_has_rejects_but_no_vectors(output, monkeypatch):
    output.prepare()
    put, written = output._put, []

    def killed_after_the_first(path, data):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        put(path, data)

    monkeypatch.setattr(output, "_put", killed_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        output.commit(PART.name, vectors(2), rejects(1), record(2, 1))
    assert committed(output) is None
    assert output.rejects(PART.name)["id"].to_pylist() == ["r0"]
