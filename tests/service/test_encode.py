"""Corpora through the running service: the same vectors as online, bad rows, refusals."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import ray.data
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.write.manifest import Manifest
from deployments.core.models.spec import Role
from testing.docstrings import all_docstrings, docstrings
from testing.encoding import encode, job_folder, rejects_of, run_command, vectors_of
from testing.shared_service import join
from tests.service.conftest import REAL

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
    """The one job on the real engine."""
    corpus, out = tmp_path / "texts.parquet", tmp_path / "out"
    texts = docstrings(ROWS, longest_words=400)
    ids = [f"doc-{i}" for i in range(ROWS)]
    pq.write_table(pa.table({"name": ids, "body": texts, "n": range(ROWS)}), corpus)
    options = ("--text-column", "body", "--id-column", "name", "--keep", "body,n", "--truncate")
    run = run_command(service, corpus, out, "--model", REAL, *options, "--part-mb", 0.01)
    assert run.returncode == 0, run.stderr
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


BAD = {
    "null": None,
    "empty": "",
    "blank": " \n\t",
    "number": 5,
    "list": ["a"],
    "long": "word " * 5_000,
    "good": "a good text",
}


def test_each_bad_row_goes_to_the_rejects_with_its_reason(service, tmp_path):
    lines = [json.dumps({"id": key, "text": value}) for key, value in BAD.items()]
    lines += [
        "{broken",
        '"just a string"',
        '{"text": "no id"}',
        '{"id": "surrogate", "text": "\\ud800"}',
    ]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    encode(service, tmp_path / "bad.jsonl", out, MODEL, id_column="id")
    assert pq.read_table(out)["id"].to_pylist() == ["good"]
    reasons = rejects_of(out)
    assert {*BAD} - {*reasons} == {"good"}
    assert "null" in reasons["null"]
    assert "empty" in reasons["empty"]
    assert reasons["blank"] == reasons["empty"]
    assert "int" in reasons["number"]
    assert "list" in reasons["list"]
    assert "256 tokens" in reasons["long"]
    assert len(reasons) == len(BAD) - 1 + 4


def test_chunks(service, tmp_path):
    text = " ".join(all_docstrings()[:40])
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "long", "text": text}) + "\n")
    out = tmp_path / "out"
    options = {"id_column": "id", "keep": ("text",), "chunk": 100, "overlap": 20}
    encode(service, tmp_path / "long.jsonl", out, MODEL, **options)
    rows = pq.read_table(out).to_pylist()
    assert [row["id"] for row in rows] == [f"long#{n}" for n in range(len(rows))]
    assert len(rows) > 5
    assert all(row["text"] == text[row["start"] : row["stop"]] for row in rows)
    assert rows[0]["start"] == 0
    assert rows[-1]["stop"] == len(text.rstrip())
    expected = online(service, MODEL, [row["text"] for row in rows])
    vectors = np.array([row["embedding"] for row in rows])
    assert np.sum(vectors * expected, axis=1).min() > 0.9999


def test_derived_ids_and_half_precision(service, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\none\n")
    outs = [tmp_path / "x", tmp_path / "y"]
    for out in outs:
        encode(service, tmp_path / "a.txt", out, MODEL, dtype="float16", keep=("text",))
    first, second = (pq.read_table(out) for out in outs)
    assert first["id"].to_pylist() == second["id"].to_pylist()
    assert len(set(first["id"].to_pylist())) == 3
    assert first.schema.field("embedding").type == pa.list_(pa.float16(), 384)


def test_another_space_is_refused(service, one_line, tmp_path):
    out = tmp_path / "out"
    encode(service, one_line, out, MODEL)
    with pytest.raises(JobError, match="choose another OUTPUT"):
        encode(service, one_line, out, "slow")
    with pytest.raises(JobError, match="'document', not 'query'"):
        encode(service, one_line, out, MODEL, role=Role.QUERY)


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


def test_without_a_service(one_line, tmp_path):
    line = [sys.executable, "-m", "cluster.cli", "encode", str(one_line)]
    line += [str(tmp_path / "out"), "--model", MODEL, "--address", "127.0.0.1:1"]
    run = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert "embedfleet serve" in run.stderr


def test_lance(service, tmp_path):
    lance = pytest.importorskip("lance")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    for _ in range(2):
        encode(service, tmp_path / "a.txt", tmp_path / "out", MODEL, format="lance", keep=("text",))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vectors.lance"]
    table = lance.dataset(str(tmp_path / "out" / "vectors.lance")).to_table()
    assert sorted(table["text"].to_pylist()) == ["one", "two"]
    assert pa.types.is_fixed_size_list(table.schema.field("embedding").type)
