"""Corpora through the running service: the same vectors as online, and refusals."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.write.manifest import Manifest
from cluster.service.environment import path_environment
from deployments.core.models.spec import Role
from deployments.ray_private import ray_that_listens, rays_with_serve
from testing.docstrings import docstrings
from testing.encoding import encode, job_folder, run_command, vectors_of
from testing.running import free_port
from testing.shared_service import join
from tests.service.conftest import ODD, REAL, stock_of
from tests.support.tolerance import FLOAT32, worst_cosine

MODEL = "hashed"
ROWS = 100


def online(service, model, texts, **options):
    vectors = []
    with service.client() as http:
        for start in range(0, len(texts), 64):
            body = {"model": model, "input": texts[start : start + 64], **options}
            answer = http.post("/v1/embeddings", json={**body, "encoding_format": "base64"})
            assert answer.status_code == 200, answer.text
            vectors += [
                np.frombuffer(base64.b64decode(d["embedding"]), "<f4")
                for d in answer.json()["data"]
            ]
    return np.stack(vectors)


@pytest.fixture
def one_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n")
    return path


def test_the_command_gives_the_same_vectors_as_online(service, tmp_path):
    """The one job on the real engine, in the environment of a node of the fast path."""
    corpus, out = tmp_path / "texts.parquet", tmp_path / "out"
    texts = docstrings(ROWS, longest_words=400)
    ids = [f"doc-{i}" for i in range(ROWS)]
    pq.write_table(pa.table({"name": ids, "body": texts, "n": range(ROWS)}), corpus)
    options = ("--text-column", "body", "--id-column", "name", "--keep", "body,n", "--truncate")
    fast, _ = path_environment("haproxy")
    run = run_command(service, corpus, out, "--model", REAL, *options, "--part-mb", 0.01, **fast)
    assert run.returncode == 0, run.stderr
    assert "ERROR" not in run.stderr
    assert f"{ROWS} rows in, {ROWS} encoded, 0 rejected" in run.stdout
    assert "Traceback" not in run.stderr
    assert ".cc:" not in run.stderr  # messages of Ray's core
    table = pq.read_table(out)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert len(list(out.glob("*.parquet"))) > 2
    expected = online(service, REAL, table["body"].to_pylist(), truncate=True)
    assert np.sum(vectors_of(table) * expected, axis=1).min() > 0.9999
    rows = zip(table["id"].to_pylist(), table["n"].to_pylist(), strict=True)
    assert dict(rows) == {f"doc-{i}": i for i in range(ROWS)}
    check_metadata(out, service)
    join(service)
    assert ray.data.read_parquet(str(out)).count() == ROWS


def test_an_odd_model(service, models_folder, tmp_path):
    texts = docstrings(24, longest_words=60)
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    out = tmp_path / "out"
    options = {"role": Role.QUERY, "truncate": True, "keep": ("text",)}
    encode(service, tmp_path / "a.parquet", out, ODD, **options)
    table = pq.read_table(out)
    stock = stock_of(models_folder)
    assert len(table) == len(texts)
    assert worst_cosine(vectors_of(table), stock.encode_query(table["text"].to_pylist())) >= FLOAT32


def test_codes_are_those_of_online_queries_in_the_space_that_the_manifest_names(service, tmp_path):
    texts = docstrings(40, longest_words=60)
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    options = {"keep": ("text",), "dtype": "int8", "truncate": True}
    summary = encode(service, tmp_path / "a.parquet", tmp_path / "out", MODEL, **options)
    table = pq.read_table(tmp_path / "out")
    with service.client() as http:
        body = {
            "model": MODEL,
            "input": table["text"].to_pylist(),
            "output_dtype": "int8",
            "space": summary.manifest.identity.space_id,
            "truncate": True,
        }
        answer = http.post("/v1/embeddings", json=body).raise_for_status().json()
        other = http.post("/v1/embeddings", json={**body, "output_dtype": "float32"})
    assert [d["embedding"] for d in answer["data"]] == table["embedding"].to_pylist()
    assert other.status_code == 409


def check_metadata(out, service):
    metadata = json.loads(pq.read_schema(next(out.glob("*.parquet"))).metadata[b"embedfleet"])
    with service.client() as http:
        models = {m["id"]: m for m in http.get("/v1/models").json()["data"]}
    assert metadata["space_id"] == models[REAL]["space_id"]
    assert metadata["role"] == "document"
    manifest = Manifest.from_json((job_folder(out) / "manifest.json").read_bytes())
    assert manifest.finished
    assert manifest.counts.rows == manifest.counts.written == ROWS
    assert manifest.counts.tokens > 3_000


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "absent"}, "absent"),
        ({"model": "e5-small-v2"}, "e5-small-v2 is unavailable"),
        ({"model": MODEL, "instruction": "Find"}, "instruction"),
        ({"model": MODEL, "dimensions": 7}, "384"),
        ({"model": MODEL, "text_column": "body"}, "body"),
        ({"model": MODEL, "chunk": 300}, "256"),
    ],
)
def test_a_refusal_names_what_is_wrong(service, one_line, tmp_path, options, named):
    with pytest.raises(JobError, match=named):
        encode(service, one_line, tmp_path / "out", **options)
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_refused_command_ends_with_1_and_one_line(service, one_line, tmp_path):
    run = run_command(service, one_line, tmp_path / "out", "--model", "absent")
    assert run.returncode == 1
    assert "absent" in run.stderr
    assert "Traceback" not in run.stderr


def test_an_output_that_cannot_be_written(service, one_line, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for output in (tmp_path / "file", "/proc/out"):
        with pytest.raises(JobError, match=str(output)):
            encode(service, one_line, output, MODEL)


def test_the_ray_of_the_service_is_found_by_its_port_and_by_serve(service):
    port = urlsplit(service.url).port
    assert ray_that_listens(port) == service.ray_address
    assert service.ray_address in rays_with_serve()
    assert ray_that_listens(free_port()) is None


def test_without_a_service(one_line, tmp_path):
    line = [sys.executable, "-m", "cluster.cli", "encode", str(one_line)]
    line += [str(tmp_path / "out"), "--model", MODEL, "--address", "127.0.0.1:1"]
    run = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert "embedfleet serve" in run.stderr
