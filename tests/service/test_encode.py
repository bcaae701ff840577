"""A corpus through the real service: the same vectors as online, bad rows, refusals."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from cluster.corpus.write.manifest import Manifest
from testing.docstrings import all_docstrings, docstrings
from testing.encoding import encode, rejects_of, vectors_of

MODEL = "all-MiniLM-L6-v2"


def online(service, texts, **body):
    vectors = []
    with service.client() as http:
        for start in range(0, len(texts), 64):
            asked = {"model": MODEL, "input": texts[start : start + 64], **body}
            answer = http.post("/v1/embeddings", json={**asked, "encoding_format": "base64"})
            assert answer.status_code == 200, answer.text
            vectors += [
                np.frombuffer(base64.b64decode(d["embedding"]), "<f4")
                for d in answer.json()["data"]
            ]
    return np.stack(vectors)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Texts from short to long, as Parquet."""
    texts = docstrings(300, longest_words=400)
    path = tmp_path_factory.mktemp("corpus") / "texts.parquet"
    ids = [f"doc-{i}" for i in range(len(texts))]
    pq.write_table(pa.table({"name": ids, "body": texts, "n": range(len(texts))}), path)
    return path


def test_the_same_vectors_as_online(service, corpus, tmp_path):
    path = corpus
    options = ("--text-column", "body", "--id-column", "name", "--keep", "body,n", "--truncate")
    out = tmp_path / "out"
    run = encode(service, path, out, "--model", MODEL, *options, "--part-mb", 0.03)
    assert run.returncode == 0, run.stderr
    assert "300 rows in, 300 encoded, 0 rejected" in run.stdout
    assert "Traceback" not in run.stderr
    assert ".cc:" not in run.stderr  # what Ray's core has to say
    table = pq.read_table(out)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert len(list(out.glob("*.parquet"))) > 2
    found = vectors_of(table)
    expected = online(service, table["body"].to_pylist(), truncate=True)
    assert np.sum(found * expected, axis=1).min() > 0.9999
    rows = zip(table["id"].to_pylist(), table["n"].to_pylist(), strict=True)
    assert dict(rows) == {f"doc-{i}": i for i in range(300)}
    check_metadata(out, service)


def check_metadata(out, service):
    about = json.loads(pq.read_schema(next(out.glob("*.parquet"))).metadata[b"embedfleet"])
    with service.client() as http:
        models = {m["id"]: m for m in http.get("/v1/models").json()["data"]}
    assert about["space_id"] == models[MODEL]["space_id"]
    assert about["role"] == "document"
    manifest = Manifest.from_json((out / "_manifest.json").read_bytes())
    assert manifest.finished
    assert manifest.counts.rows == manifest.counts.written == 300
    assert manifest.counts.tokens > 10_000


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
    run = encode(service, tmp_path / "bad.jsonl", out, "--model", MODEL, "--id-column", "id")
    assert run.returncode == 0, run.stderr
    table = pq.read_table(out)
    assert table["id"].to_pylist() == ["good"]
    reasons = rejects_of(out)
    assert reasons["null"] == "null"
    assert reasons["empty"] == reasons["blank"] == "empty"
    assert reasons["number"] == "not text: int"
    assert reasons["list"] == "not text: list"
    assert reasons["long"].startswith("over the model's limit of 256 tokens")
    others = sorted(reason for key, reason in reasons.items() if key not in BAD)
    assert [reason.split(":")[0] for reason in others] == [
        "broken record",
        "broken record",
        "broken record",
        "null in the id column 'id'",
    ]


def test_chunks(service, tmp_path):
    text = " ".join(all_docstrings()[:40])
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "long", "text": text}) + "\n")
    out = tmp_path / "out"
    options = ("--id-column", "id", "--keep", "text", "--chunk", 100, "--overlap", 20)
    run = encode(service, tmp_path / "long.jsonl", out, "--model", MODEL, *options)
    assert run.returncode == 0, run.stderr
    rows = pq.read_table(out).to_pylist()
    assert [row["id"] for row in rows] == [f"long#{n}" for n in range(len(rows))]
    assert len(rows) > 5
    assert all(row["text"] == text[row["start"] : row["stop"]] for row in rows)
    assert rows[0]["start"] == 0
    assert rows[-1]["stop"] == len(text.rstrip())
    expected = online(service, [row["text"] for row in rows])
    found = np.array([row["embedding"] for row in rows])
    assert np.sum(found * expected, axis=1).min() > 0.9999


def test_derived_ids_and_half_precision(service, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\none\n")
    outs = [tmp_path / "x", tmp_path / "y"]
    for out in outs:
        run = encode(
            service,
            tmp_path / "a.txt",
            out,
            "--model",
            "small",
            "--dtype",
            "float16",
            "--keep",
            "text",
        )
        assert run.returncode == 0, run.stderr
    one, other = (pq.read_table(out) for out in outs)
    assert one["id"].to_pylist() == other["id"].to_pylist()
    assert len(set(one["id"].to_pylist())) == 3
    assert one.schema.field("embedding").type == pa.list_(pa.float16(), 384)


def test_another_space_is_refused(service, tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    out = tmp_path / "out"
    assert encode(service, tmp_path / "a.txt", out, "--model", MODEL).returncode == 0
    other = encode(service, tmp_path / "a.txt", out, "--model", "minilm-float32")
    assert other.returncode == 1
    assert "do not compare with these: choose another OUTPUT" in other.stderr
    role = encode(service, tmp_path / "a.txt", out, "--model", MODEL, "--role", "query")
    assert "role 'document', not 'query'" in role.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--model", "absent"), "no model 'absent' here"),
        (("--model", "e5-small-v2"), "e5-small-v2 is unavailable"),
        (("--model", MODEL, "--instruction", "Find"), "takes no instruction"),
        (("--model", MODEL, "--dimensions", "7"), "384 dimensions"),
        (("--model", MODEL, "--text-column", "body"), "has no column 'body'"),
        (
            ("--model", MODEL, "--chunk", "300"),
            "--chunk 300: all-MiniLM-L6-v2 takes 256 tokens at most",
        ),
    ],
)
def test_refusals_name_what_is_wrong(service, tmp_path, args, message):
    (tmp_path / "a.txt").write_text("one\n")
    run = encode(service, tmp_path / "a.txt", tmp_path / "out", *args)
    assert run.returncode == 1
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_an_output_that_cannot_be_written(service, tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    (tmp_path / "file").write_text("in the way")
    for output, message in (("file", "file"), ("/proc/out", "cannot be written to")):
        run = encode(service, tmp_path / "a.txt", tmp_path / output, "--model", MODEL)
        assert run.returncode == 1
        assert message in run.stderr
        assert "Traceback" not in run.stderr


def test_without_a_service(tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    line = [sys.executable, "-m", "cluster.cli", "encode", str(tmp_path / "a.txt")]
    line += [str(tmp_path / "out"), "--model", MODEL, "--address", "127.0.0.1:1"]
    run = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert "start it with `embedfleet serve`" in run.stderr


def test_lance(service, tmp_path):
    lance = pytest.importorskip("lance")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    args = (tmp_path / "a.txt", tmp_path / "out", "--model", MODEL, "--format", "lance")
    for _ in range(2):
        run = encode(service, *args, "--keep", "text")
        assert run.returncode == 0, run.stderr
    table = lance.dataset(str(tmp_path / "out" / "vectors.lance")).to_table()
    assert sorted(table["text"].to_pylist()) == ["one", "two"]
    assert pa.types.is_fixed_size_list(table.schema.field("embedding").type)
