"""Whole jobs over odd corpora, from files to files: every row is encoded or rejected, by the rules."""

from __future__ import annotations

import json
import uuid
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.execution import Run
from cluster.corpus.settings import Settings
from deployments.core.models.spec import Role
from testing.encoding import check_exactly_once, counts, rejects_of, vectors_of
from tests.support.local_job import encode_here, preprocessor, vector_of
from tests.support.small_disk import remount


@pytest.fixture
def encode(monkeypatch):
    """Runs a job."""

    def run(source, output, run=None, **options):
        return encode_here(
            Settings(str(source), str(output), "minilm", **options), monkeypatch, run
        )

    return run


BAD = {
    "null": None,
    "empty": "",
    "blank": " \n\t",
    "number": 5,
    "list": ["a"],
    "long": "word " * 5_000,
    "good": "a good text",
}


def test_each_bad_row_goes_to_the_rejects_with_its_reason(encode, tmp_path):
    lines = [json.dumps({"id": key, "text": value}) for key, value in BAD.items()]
    lines += [
        "{broken",
        '"just a string"',
        '{"text": "no id"}',
        '{"id": "surrogate", "text": "\\ud800"}',
    ]
    (tmp_path / "bad.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    encode(tmp_path / "bad.jsonl", out, id_column="id")
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


def test_a_job_in_which_every_row_is_rejected_leaves_no_vectors(encode, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n{"text": ""}\n')
    summary = encode(tmp_path / "a.jsonl", tmp_path / "out")
    assert counts(summary) == (2, 0, 2)
    assert summary.manifest.counts.reasons == {"null": 1, "empty": 1}
    assert not list((tmp_path / "out").iterdir())


def test_chunks_carry_their_part_of_the_text_and_its_vector(encode, tmp_path):
    text, out = " ".join(f"Line {n} of a text." for n in range(150)), tmp_path / "out"
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "long", "text": text}) + "\n")
    options = {"id_column": "id", "keep": ("text",), "chunk": 100, "overlap": 20}
    encode(tmp_path / "long.jsonl", out, **options)
    table = pq.read_table(out)
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == [f"long#{n}" for n in range(len(rows))]
    assert len(rows) > 5
    assert all(row["text"] == text[row["start"] : row["stop"]] for row in rows)
    assert rows[0]["start"] == 0
    assert rows[-1]["stop"] == len(text.rstrip())
    ids = preprocessor().tokenizer.tokenize([row["text"] for row in rows]).batch
    vectors = np.stack([vector_of(ids.text(row)) for row in range(len(rows))])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(vectors_of(table), vectors, atol=1e-6)


def test_derived_ids_and_half_precision(encode, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\none\n")
    outs = [tmp_path / "x", tmp_path / "y"]
    for out in outs:
        encode(tmp_path / "a.txt", out, dtype="float16", keep=("text",))
    first, second = (pq.read_table(out) for out in outs)
    assert first["id"].to_pylist() == second["id"].to_pylist()
    assert len(set(first["id"].to_pylist())) == 3
    assert first.schema.field("embedding").type == pa.list_(pa.float16(), 384)


def test_each_id_is_in_the_output_once(encode, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1, "text": "one"}\n{"id": 1, "text": "again"}\n')
    (tmp_path / "b.jsonl").write_text('{"id": 2, "text": "two"}\n{"id": 1, "text": "later"}\n')
    for _ in range(2):
        summary = encode(tmp_path / "*.jsonl", tmp_path / "out", id_column="id", keep=("text",))
        assert counts(summary) == (4, 2, 2)
        rows = pq.read_table(tmp_path / "out").to_pylist()
        assert {(row["id"], row["text"]) for row in rows} == {(1, "one"), (2, "two")}
        files = sorted((tmp_path / "out.job" / "rejects").glob("*.parquet"))
        rejects = [row for file in files for row in pq.read_table(file).to_pylist()]
        assert {(r["source"], r["text"]) for r in rejects} == {
            ("a.jsonl", "again"),
            ("b.jsonl", "later"),
        }
        assert all("a.jsonl" in r["reason"] for r in rejects)


def test_a_part_of_rejects_alone_and_types_that_arrow_extends(encode, tmp_path):
    ids = pa.array([uuid.UUID(int=n).bytes for n in range(4)], pa.uuid())
    views = pa.array(["a", "b", "c", "d"], pa.string_view())
    table = pa.table({"id": ids, "view": views, "text": [None, None, "one", "two"]})
    path, out = tmp_path / "a.parquet", tmp_path / "out"
    pq.write_table(table, path)
    options = {"id_column": "id", "keep": ("view",), "part_mb": 1e-6}
    encode(path, out, **options)
    written = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert counts(encode(path, out, **options)) == (4, 2, 2)  # finds each part in place
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == written
    assert len(written) == 2
    vectors = pq.read_table(out)
    assert vectors["id"].to_pylist() == [uuid.UUID(int=2), uuid.UUID(int=3)]
    assert vectors["view"].to_pylist() == ["c", "d"]


def test_damage_is_mended_and_named(encode, tmp_path):
    path, out, messages = tmp_path / "a.jsonl", tmp_path / "out", []
    path.write_text('{"id": "a", "text": "x"}\n{"id": "b", "text": null}\n')
    encode(path, out, id_column="id")
    (part,) = out.iterdir()
    before = pq.read_table(part)
    (tmp_path / "out.job" / "rejects" / part.name).unlink()
    (tmp_path / "out.job" / "manifest.json").write_text("{}")
    encode(path, out, Run(say=messages.append), id_column="id")
    assert "manifest.json was missing or damaged, and is made again from the parts" in messages[1]
    assert "rejected rows of a.jsonl are missing" in messages[2]
    assert list(rejects_of(out)) == ["b"]
    assert pq.read_table(part).equals(before)


def test_another_prompt_is_refused_before_any_work(encode, tmp_path):
    (tmp_path / "a.txt").write_text("one\n")
    encode(tmp_path / "a.txt", tmp_path / "out")
    with pytest.raises(JobError, match="'document', not 'query'"):
        encode(tmp_path / "a.txt", tmp_path / "out", role=Role.QUERY)


def test_a_disk_that_fills_up(encode, tmp_path, small_disk):
    texts = [f"Text {n} of many. " * 20 for n in range(1_000)]
    ids, out = [f"d{n}" for n in range(len(texts))], small_disk / "out"
    pq.write_table(pa.table({"id": ids, "text": texts}), tmp_path / "a.parquet")
    remount(small_disk, "size=1000k")
    job = partial(encode, tmp_path / "a.parquet", out, id_column="id", part_mb=0.05)
    with pytest.raises(JobError, match="No space left on device") as stopped:
        job()
    assert str(out) in str(stopped.value)
    written = sum(pq.read_table(file).num_rows for file in out.glob("*.parquet"))
    assert 0 < written < len(ids)
    remount(small_disk, "size=64m")
    job()
    check_exactly_once(out, {*ids})


def test_lance(encode, tmp_path):
    lance = pytest.importorskip("lance")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    for _ in range(2):
        encode(tmp_path / "a.txt", tmp_path / "out", format="lance", keep=("text",))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["vectors.lance"]
    table = lance.dataset(str(tmp_path / "out" / "vectors.lance")).to_table()
    assert sorted(table["text"].to_pylist()) == ["one", "two"]
    assert pa.types.is_fixed_size_list(table.schema.field("embedding").type)
