"""Whole jobs with a sparse encoder: two columns of lists instead of one of vectors."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from cluster.corpus.errors import JobError
from cluster.corpus.settings import Settings
from cluster.corpus.write.manifest import identify
from deployments.core.errors import InvalidRequest
from deployments.core.models.space import space_id
from deployments.core.models.spec import Kind
from testing.encoding import check_exactly_once, counts
from tests.support.killing import stamps
from tests.support.local_job import counts_of, encode_here, preprocessor

SPEC = preprocessor(Kind.SPARSE).spec


@pytest.fixture
def encode(monkeypatch):
    """Runs a job."""

    def run(source, output, kind=Kind.SPARSE, **options):
        settings = Settings(str(source), str(output), "minilm", id_column="id", **options)
        return encode_here(settings, monkeypatch, kind=kind)

    return run


@pytest.fixture
def source(tmp_path):
    """A few hundred texts of all lengths; every seventh is rejected."""
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "naïve", "日本語"]
    lines = []
    for n in range(300):
        text = " ".join(rng.choice(words, rng.integers(1, 40))) if n % 7 else None
        lines.append(json.dumps({"id": f"d{n}", "text": text, "values": n}))
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(lines))
    return path


def expected(texts):
    batch = preprocessor().tokenizer.tokenize(texts).batch
    return counts_of([batch.text(row) for row in range(len(batch))])


def test_each_row_has_the_indices_and_values_of_its_text(encode, source, tmp_path):
    out = tmp_path / "out"
    summary = encode(source, out, keep=("text",), part_mb=0.002)
    assert counts(summary) == (300, 257, 43)
    table = pq.read_table(out)
    check_exactly_once(out, {f"d{n}" for n in range(300)})
    assert table.column_names == ["id", "text", "indices", "values"]
    assert table.schema.field("indices").type == pa.list_(pa.uint32())
    assert table.schema.field("values").type == pa.list_(pa.float32())
    vectors = expected(table["text"].to_pylist())
    assert len(set(vectors.lengths.tolist())) > 3
    rows = vectors.rows()
    assert table["indices"].to_pylist() == [row.indices.tolist() for row in rows]
    assert table["values"].to_pylist() == [row.values.tolist() for row in rows]


def test_the_space_is_recorded_and_no_other_vectors_are_added(encode, source, tmp_path):
    out = tmp_path / "out"
    summary = encode(source, out)
    assert summary.manifest.identity.space_id == space_id(SPEC)
    before = stamps(out)
    encode(source, out)
    assert stamps(out) == before  # nothing was left to do
    with pytest.raises(JobError, match="another kind"):
        encode(source, out, kind=Kind.EMBEDDER)


def test_values_in_half_precision_and_of_chunks(encode, source, tmp_path):
    out = tmp_path / "out"
    encode(source, out, dtype="float16", chunk=10, keep=("text",))
    table = pq.read_table(out)
    assert table.schema.field("values").type == pa.list_(pa.float16())
    vectors = expected(table["text"].to_pylist())
    assert table["indices"].to_pylist() == [row.indices.tolist() for row in vectors.rows()]


@pytest.mark.parametrize(
    ("options", "field"), [({"keep": ("values",)}, "keep"), ({"dimensions": 64}, "dimensions")]
)
def test_what_sparse_vectors_do_not_allow_is_refused(source, options, field):
    with pytest.raises(InvalidRequest) as refused:
        identify(SPEC, Settings(str(source), "out", "minilm", **options), None)
    assert (refused.value.code, refused.value.param) == ("invalid_value", field)


def test_a_dense_job_may_keep_a_column_of_that_name(encode, source, tmp_path):
    out = tmp_path / "out"
    encode(source, out, kind=Kind.EMBEDDER, keep=("values",))
    assert pq.read_table(out).column_names == ["id", "values", "embedding"]


def test_a_row_that_is_rejected_takes_no_vector_from_the_next(encode, tmp_path):
    rows = [("a", "one"), ("a", "one again"), ("b", "three words here")]
    lines = [json.dumps({"id": name, "text": text}) for name, text in rows]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    encode(tmp_path / "in.jsonl", tmp_path / "out")
    table = pq.read_table(tmp_path / "out")
    assert table["id"].to_pylist() == ["a", "b"]
    vectors = expected(["one", "three words here"]).rows()
    assert table["indices"].to_pylist() == [row.indices.tolist() for row in vectors]
