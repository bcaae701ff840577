"""``--dtype`` of whole jobs: the codes, their types in files, and what the manifest says of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from sentence_transformers.util import quantize_embeddings

from cluster.corpus.errors import JobError
from cluster.corpus.settings import Settings
from cluster.corpus.write.manifest import identify
from deployments.core.batch import Encoded
from deployments.core.errors import InvalidRequest
from deployments.core.models.space import space_id
from deployments.core.models.spec import Kind
from deployments.core.quantization import byte_range
from testing.encoding import counts, rejects_of, vectors_of
from tests.support.killing import stamps
from tests.support.local_job import LocalService, encode_here, preprocessor

ROWS = 300
DIMENSIONS = 384
TYPES = {
    "int8": pa.list_(pa.int8(), DIMENSIONS),
    "uint8": pa.list_(pa.uint8(), DIMENSIONS),
    "binary": pa.list_(pa.int8(), DIMENSIONS // 8),
    "ubinary": pa.list_(pa.uint8(), DIMENSIONS // 8),
}
BYTES = ["int8", "uint8"]


@pytest.fixture
def encode(monkeypatch, tmp_path):
    """Runs a job over the same texts and returns its output folder and its summary."""
    source = tmp_path / "in.txt"
    source.write_text("\n".join(f"text number {n}" for n in range(ROWS)))

    def run(dtype, name="out", **options):
        out = tmp_path / name
        settings = Settings(str(source), str(out), "minilm", dtype=dtype, **options)
        return out, encode_here(settings, monkeypatch)

    return run


@pytest.mark.parametrize("dtype", TYPES)
def test_codes_are_those_of_sentence_transformers_on_the_ranges_of_the_manifest(encode, dtype):
    floats, _ = encode("float32", "floats", part_mb=0.001)
    out, summary = encode(dtype, part_mb=0.001)
    assert len(list(out.iterdir())) > 3
    table = pq.read_table(out)
    assert table.schema.field("embedding").type == TYPES[dtype]
    assert table["id"].to_pylist() == pq.read_table(floats)["id"].to_pylist()
    vectors, codes = vectors_of(pq.read_table(floats)), vectors_of(table)
    most = summary.manifest.settings.get("byte_range", 0.0)
    theirs = quantize_embeddings(vectors, dtype, np.tile([[-most], [most]], DIMENSIONS))
    apart = np.abs(codes - theirs)
    # a component on the border of two codes may fall to either side
    assert apart.max() <= (1 if dtype in BYTES else 0)
    assert (apart > 0).mean() < 0.001


@pytest.mark.parametrize("dtype", ["float32", "float16", *TYPES])
def test_space_and_ranges_are_in_the_manifest_and_in_each_file(encode, dtype):
    out, summary = encode(dtype)
    (part,) = out.iterdir()
    about = json.loads(pq.read_schema(part).metadata[b"embedfleet"])
    suffix = "" if dtype.startswith("float") else f"+{dtype}"
    assert about["space_id"] == space_id(preprocessor().spec) + suffix
    assert about["settings"] == dict(summary.manifest.settings)
    assert about["settings"]["dtype"] == dtype
    expected = byte_range(DIMENSIONS) if dtype in BYTES else None
    assert about["settings"].get("byte_range") == expected


def test_codes_take_the_space_on_disk_that_they_promise(encode):
    sizes = {}
    for dtype in ("float32", *TYPES):
        out, _ = encode(dtype, dtype)
        sizes[dtype] = sum(file.stat().st_size for file in out.iterdir())
    assert sizes["int8"] < 0.35 * sizes["float32"]
    assert sizes["uint8"] < 0.35 * sizes["float32"]
    assert sizes["binary"] < 0.1 * sizes["float32"]
    assert sizes["ubinary"] < 0.1 * sizes["float32"]


@pytest.mark.parametrize("before", ["float32", "int8"])
@pytest.mark.parametrize("now", ["float16", "uint8", "binary"])
def test_an_output_is_not_continued_with_another_dtype(encode, before, now):
    encode(before)
    with pytest.raises(JobError, match=f"dtype '{before}'.*'{now}'"):
        encode(now)


def test_an_output_is_not_continued_with_another_range(encode, monkeypatch):
    encode("int8")
    monkeypatch.setattr("deployments.core.quantization.RANGE", 5.0)
    with pytest.raises(JobError, match=r"byte_range 0\.204\d*, now 0\.255"):
        encode("int8")


def test_the_same_job_finds_its_codes_in_place(encode):
    out, _ = encode("int8")
    before = stamps(out)
    _, again = encode("int8")
    assert stamps(out) == before
    assert counts(again) == (ROWS, ROWS, 0)


def test_lance_holds_the_same_codes(encode):
    lance = pytest.importorskip("lance")
    for dtype, kind in TYPES.items():
        out, _ = encode(dtype, dtype, format="lance")
        table = lance.dataset(str(out / "vectors.lance")).to_table()
        assert table.schema.field("embedding").type == kind
        parquet, _ = encode(dtype, f"{dtype}-parquet")
        np.testing.assert_array_equal(vectors_of(table), vectors_of(pq.read_table(parquet)))


def test_a_text_whose_vector_is_zero_costs_its_own_row(encode, monkeypatch):
    class Zero(LocalService):
        async def encode_tokens(self, batch, lane, timeout_s):
            encoded = await super().encode_tokens(batch, lane, timeout_s)
            encoded.vectors[0] = 0
            return Encoded(encoded.vectors, 0.0, 0.0)

    monkeypatch.setattr("tests.support.local_job.LocalService", Zero)
    out, summary = encode("int8")
    calls = ROWS - summary.manifest.counts.documents
    assert 0 < calls < 10
    assert summary.manifest.counts.reasons == {"its vector is zero": calls}
    assert len(rejects_of(out)) == calls
    _, floats = encode("float32", "floats")
    assert floats.manifest.counts.rejected == 0


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("int8", Kind.EMBEDDER),
        ("uint8", Kind.EMBEDDER),
        ("binary", Kind.SPARSE),
        ("int8", Kind.SPARSE),
    ],
)
def test_what_a_model_does_not_allow_is_refused(dtype, kind):
    spec = replace(preprocessor(kind).spec, normalize=False)
    with pytest.raises(InvalidRequest) as refused:
        identify(spec, Settings("in", "out", "m", dtype=dtype), None)
    assert refused.value.param == "output_dtype"


def test_bits_of_vectors_that_are_not_normalised():
    spec = replace(preprocessor().spec, normalize=False)
    identity = identify(spec, Settings("in", "out", "m", dtype="ubinary"), None)
    assert identity.space_id.endswith("+ubinary")


def test_an_unknown_dtype():
    with pytest.raises(JobError, match="--dtype"):
        Settings("in", "out", "m", dtype="int4")
