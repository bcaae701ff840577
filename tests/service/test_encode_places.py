"""Where corpora lie and vectors go: S3, disks that are full or read-only, files that are damaged."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pyarrow as pa
import pytest
from pyarrow import fs as pafs
from pyarrow import parquet as pq

from testing.docstrings import all_docstrings
from testing.encoding import check_exactly_once, command, encode
from testing.running import free_port
from testing.waiting import until
from tests.support.small_disk import remount

MODEL = "all-MiniLM-L6-v2"
LANCE_TRIES_S = 120  # what Ray Data alone would spend on trying again is longer
BY_ID = ("--model", MODEL, "--id-column", "id")


def write_corpus(path, count):
    texts = all_docstrings()[:count]
    pq.write_table(pa.table({"id": [f"d{i}" for i in range(count)], "text": texts}), path)
    return {f"d{i}" for i in range(count)}


def test_a_disk_that_fills_up(service, tmp_path, small_disk):
    ids, out = write_corpus(tmp_path / "a.parquet", 2_000), small_disk / "out"
    args = (tmp_path / "a.parquet", out, *BY_ID, "--part-mb", 0.05)
    full = encode(service, *args)
    check_stopped(full, out, "No space left on device")
    written = sum(pq.read_metadata(file).num_rows for file in out.glob("*.parquet"))
    assert 0 < written < len(ids)
    remount(small_disk, "size=64m")
    again = encode(service, *args)
    assert again.returncode == 0, again.stderr
    check_exactly_once(out, ids)


def test_a_disk_that_fills_up_under_lance(service, tmp_path, small_disk):
    lance = pytest.importorskip("lance")
    ids, out = write_corpus(tmp_path / "a.parquet", 1_000), small_disk / "out"
    remount(small_disk, "size=2500k")  # enough for the parts, 1.5 MB
    args = (tmp_path / "a.parquet", out, *BY_ID, "--truncate", "--format", "lance")
    started = time.monotonic()
    full = encode(service, *args)
    assert time.monotonic() - started < LANCE_TRIES_S
    assert full.returncode == 1, full.stdout
    assert f"{out}/vectors.lance cannot be written" in full.stderr
    assert "No space left on device" in full.stderr
    assert "the parts stay, run the command again" in full.stderr
    assert not lance_rows(lance, out)
    remount(small_disk, "size=64m")
    again = encode(service, *args)
    assert again.returncode == 0, again.stderr
    assert {row["id"] for row in lance_rows(lance, out)} == ids


def lance_rows(lance, out):
    try:
        return lance.dataset(str(out / "vectors.lance")).to_table(columns=["id"]).to_pylist()
    except ValueError:  # nothing has been committed
        return []


def check_stopped(run, out, why):
    assert run.returncode == 1, run.stdout
    assert f"{out} cannot be written to" in run.stderr
    assert why in run.stderr
    assert "the same command goes on from it" in run.stderr
    assert "Traceback" not in run.stderr
    for file in out.rglob("*.parquet"):
        pq.read_table(file)


def test_a_damaged_file_is_named_and_may_be_mended(service, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_corpus(folder / "a.parquet", 20)
    whole = pa.table({"id": ["x", "y"], "text": ["one", "two"]})
    pq.write_table(whole, folder / "b.parquet", compression="gzip")
    data = bytearray((folder / "b.parquet").read_bytes())
    data[4:60] = bytes(56)
    (folder / "b.parquet").write_bytes(data)
    damaged = encode(service, folder, out, *BY_ID)
    assert damaged.returncode == 1
    assert f"{folder}/b.parquet cannot be read from 0 on" in damaged.stderr
    assert "Traceback" not in damaged.stderr
    pq.write_table(whole, folder / "b.parquet")
    mended = encode(service, folder, out, *BY_ID)
    assert mended.returncode == 0, mended.stderr
    check_exactly_once(out, {"x", "y", *(f"d{i}" for i in range(20))})


def test_an_id_stands_once_in_the_output(service, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "one"}\n{"id": 1, "text": "again"}\n')
    (tmp_path / "b.jsonl").write_text('{"id": 2, "text": "two"}\n{"id": 1, "text": "later"}\n')
    for _ in range(2):
        run = encode(service, tmp_path / "*.jsonl", tmp_path / "out", *BY_ID, "--keep", "text")
        assert "4 rows in, 2 encoded, 2 rejected" in run.stdout, run.stderr
        rows = pq.read_table(tmp_path / "out").to_pylist()
        assert {(row["id"], row["text"]) for row in rows} == {(1, "one"), (2, "two")}
        files = sorted((tmp_path / "out" / "_rejects").glob("*.parquet"))
        rejects = [row for file in files for row in pq.read_table(file).to_pylist()]
        assert {(r["source"], r["text"]) for r in rejects} == {
            ("a.jsonl", "again"),
            ("b.jsonl", "later"),
        }
        assert {r["reason"] for r in rejects} == {"duplicate id, first in a.jsonl"}


@pytest.fixture(scope="module")
def s3():
    """The address of an S3 server with a bucket ``corpus``."""
    pytest.importorskip("moto")
    with store_server("moto.server", "-H", "127.0.0.1", "-p") as address:
        httpx.put(f"http://{address}/corpus").raise_for_status()
        yield address


@pytest.fixture(scope="module")
def gcs():
    """The address of a Google Cloud Storage server with a bucket ``corpus``."""
    pytest.importorskip("gcp_storage_emulator")
    options = ("start", "-q", "-M", "--default-bucket", "corpus", "-H", "127.0.0.1", "--port")
    with store_server("gcp_storage_emulator", *options) as address:
        yield address


@contextmanager
def store_server(module, *options):
    """Runs a server, its port the last option; yields its address once it answers."""
    port = free_port()
    address, line = f"127.0.0.1:{port}", [sys.executable, "-m", module, *options, str(port)]
    with ExitStack() as stack:
        server = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        until(lambda: answers(f"http://{address}/"), 60, f"{module} answers")
        yield address


def answers(url) -> bool:
    with suppress(httpx.TransportError):
        httpx.get(url)
        return True
    return False


def encode_on_s3(service, *args, **environment):
    """The job with keys that the cluster's own processes do not have."""
    line, ours = command(service, *args)
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    return subprocess.run(
        line,
        env={**ours, **keys, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_from_s3_to_s3(service, s3):
    store = pafs.S3FileSystem(
        access_key="key", secret_key="secret", endpoint_override=s3, scheme="http"
    )
    for name, first in (("a", 0), ("b", 2)):
        lines = [f'{{"id": "{i}", "text": "text {i}"}}\n' for i in range(first, first + 2)]
        with store.open_output_stream(f"corpus/in/{name}.jsonl") as stream:
            stream.write("".join([*lines, f'{{"id": "{name}", "text": null}}\n']).encode())
    args = ("s3://corpus/in/*.jsonl", "s3://corpus/out", *BY_ID)
    where = {"AWS_ENDPOINT_URL": f"http://{s3}", "AWS_REGION": "us-east-1"}
    run = encode_on_s3(service, *args, **where)
    assert "6 rows in, 4 encoded, 2 rejected" in run.stdout, run.stderr
    again = encode_on_s3(service, *args, **where)
    assert "nothing was left to do" in again.stdout, again.stderr
    table = pq.read_table("corpus/out", filesystem=store)
    assert sorted(table["id"].to_pylist()) == ["0", "1", "2", "3"]
    rejects = pq.read_table("corpus/out/_rejects", filesystem=store)
    assert sorted(rejects["id"].to_pylist()) == ["a", "b"]


def test_from_gcs_to_gcs(service, gcs):
    where = f"scheme=http&endpoint_override={gcs}&retry_limit_seconds=10"
    store = pafs.FileSystem.from_uri(f"gs://anonymous@corpus?{where}")[0]
    for name in ("a", "b"):
        with store.open_output_stream(f"corpus/in/{name}.jsonl") as stream:
            stream.write(f'{{"id": "{name}", "text": "a text"}}\n{{"id": "{name}0"}}\n'.encode())
    places = (f"gs://anonymous@corpus/{path}?{where}" for path in ("in/*.jsonl", "out"))
    args = (*places, *BY_ID)
    run = encode(service, *args)
    assert "4 rows in, 2 encoded, 2 rejected" in run.stdout, run.stderr
    again = encode(service, *args)
    assert "nothing was left to do" in again.stdout, again.stderr
    assert sorted(pq.read_table("corpus/out", filesystem=store)["id"].to_pylist()) == ["a", "b"]
    rejects = pq.read_table("corpus/out/_rejects", filesystem=store)
    assert sorted(rejects["id"].to_pylist()) == ["a0", "b0"]


def test_the_address_of_an_s3_server_in_the_uri(service, s3, tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    out = f"s3://corpus/by-uri?endpoint_override={s3}&scheme=http&region=us-east-1"
    run = encode_on_s3(service, tmp_path / "a.txt", out, "--model", MODEL)
    assert "2 rows in, 2 encoded, 0 rejected" in run.stdout, run.stderr
    absent = encode_on_s3(
        service, tmp_path / "a.txt", out.replace("corpus", "nowhere"), "--model", MODEL
    )
    assert absent.returncode == 1
    assert "nowhere" in absent.stderr
    assert "Traceback" not in absent.stderr


def test_lance_on_s3(service, s3, tmp_path):
    lance = pytest.importorskip("lance")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    out = f"s3://corpus/lance?endpoint_override={s3}&scheme=http&region=us-east-1"
    run = encode_on_s3(service, tmp_path / "a.txt", out, "--model", MODEL, "--format", "lance")
    assert run.returncode == 0, run.stderr
    options = {
        "aws_endpoint": f"http://{s3}",
        "allow_http": "true",
        "aws_region": "us-east-1",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
    }
    found = lance.dataset("s3://corpus/lance/vectors.lance", storage_options=options)
    assert found.count_rows() == 2
