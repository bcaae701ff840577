"""Where corpora come from and vectors go: S3, GCS, files that are damaged."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from testing.docstrings import all_docstrings
from testing.encoding import check_exactly_once, counts, encode, run_command
from tests.support.object_stores import s3_server, store_server

MODEL = "hashed"


def write_corpus(path, count):
    texts = all_docstrings()[:count]
    pq.write_table(pa.table({"id": [f"d{i}" for i in range(count)], "text": texts}), path)
    return {f"d{i}" for i in range(count)}


def test_a_damaged_file_is_named_and_may_be_mended(service, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_corpus(folder / "a.parquet", 20)
    whole = pa.table({"id": ["x", "y"], "text": ["one", "two"]})
    pq.write_table(whole, folder / "b.parquet", compression="gzip")
    data = bytearray((folder / "b.parquet").read_bytes())
    data[4:60] = bytes(56)
    (folder / "b.parquet").write_bytes(data)
    run = run_command(service, folder, out, "--model", MODEL, "--id-column", "id")
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"embedfleet: {folder}/b.parquet cannot be read"), last
    assert all(line.startswith(("embedfleet: ", "  ")) for line in run.stderr.splitlines()), (
        run.stderr
    )
    pq.write_table(whole, folder / "b.parquet")
    encode(service, folder, out, MODEL, id_column="id")
    check_exactly_once(out, {"x", "y", *(f"d{i}" for i in range(20))})


@pytest.fixture(scope="module")
def s3():
    """The address of an S3 server with a bucket ``corpus``."""
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def gcs():
    """The address of a Google Cloud Storage server with a bucket ``corpus``."""
    pytest.importorskip("gcp_storage_emulator")
    options = ("start", "-q", "-M", "--default-bucket", "corpus", "-H", "127.0.0.1", "--port")
    with store_server("gcp_storage_emulator", *options) as address:
        yield address


@pytest.fixture
def keys(monkeypatch):
    """S3 keys that the job's own process has and the cluster's processes do not."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.usefixtures("keys")
def test_from_s3_to_s3(service, s3, monkeypatch):
    store = pafs.S3FileSystem(
        access_key="key", secret_key="secret", endpoint_override=s3, scheme="http"
    )
    for name, first in (("a", 0), ("b", 2)):
        lines = [f'{{"id": "{i}", "text": "text {i}"}}\n' for i in range(first, first + 2)]
        with store.open_output_stream(f"corpus/in/{name}.jsonl") as stream:
            stream.write("".join([*lines, f'{{"id": "{name}", "text": null}}\n']).encode())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    job = (service, "s3://corpus/in/*.jsonl", "s3://corpus/out", MODEL)
    assert counts(encode(*job, id_column="id")) == (6, 4, 2)
    again = encode(*job, id_column="id")
    assert (counts(again), again.tokens) == ((6, 4, 2), 0)
    table = pq.read_table("corpus/out", filesystem=store)
    assert sorted(table["id"].to_pylist()) == ["0", "1", "2", "3"]
    rejects = pq.read_table("corpus/out.job/rejects", filesystem=store)
    assert sorted(rejects["id"].to_pylist()) == ["a", "b"]


@pytest.mark.long
def test_from_gcs_to_gcs(service, gcs):
    where = f"scheme=http&endpoint_override={gcs}&retry_limit_seconds=10"
    store = pafs.FileSystem.from_uri(f"gs://anonymous@corpus?{where}")[0]
    for name in ("a", "b"):
        with store.open_output_stream(f"corpus/in/{name}.jsonl") as stream:
            stream.write(f'{{"id": "{name}", "text": "a text"}}\n{{"id": "{name}0"}}\n'.encode())
    source, out = (f"gs://anonymous@corpus/{path}?{where}" for path in ("in/*.jsonl", "out"))
    assert counts(encode(service, source, out, MODEL, id_column="id")) == (4, 2, 2)
    assert encode(service, source, out, MODEL, id_column="id").tokens == 0
    assert sorted(pq.read_table("corpus/out", filesystem=store)["id"].to_pylist()) == ["a", "b"]
    rejects = pq.read_table("corpus/out.job/rejects", filesystem=store)
    assert sorted(rejects["id"].to_pylist()) == ["a0", "b0"]


@pytest.mark.usefixtures("keys")
def test_the_address_of_an_s3_server_in_the_uri(service, s3, tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    out = f"s3://corpus/by-uri?endpoint_override={s3}&scheme=http&region=us-east-1"
    assert counts(encode(service, tmp_path / "a.txt", out, MODEL)) == (2, 2, 0)
    with pytest.raises(JobError, match="nowhere"):
        encode(service, tmp_path / "a.txt", out.replace("corpus", "nowhere"), MODEL)
