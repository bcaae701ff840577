"""What a stage of a Ray Data pipeline makes of a batch, and what it refuses. No Ray runs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.corpus import stage
from cluster.corpus.errors import JobError
from cluster.corpus.stage import Columns, EmbedWorker
from deployments.core.batch import Encoded
from deployments.core.errors import KillsReplicas, ModelUnavailable
from deployments.core.quantization import OutputDtype, quantized
from deployments.core.vectors import normalized
from tests.support.local_job import TARGET, LocalService, preprocessor, vector_of

COLUMNS = Columns("text", "embedding", "embedding_error")
LONG = "word " * 300
TEXTS = ["one", None, LONG, "two words", " ", "three"]
ENCODED = [0, 3, 5]


@pytest.fixture
def worker(monkeypatch):
    """Makes a worker whose replicas are ``service``."""
    monkeypatch.setattr(stage, "give_way", lambda: None)

    def make(service=None, dtype=OutputDtype.FLOAT32):
        made = EmbedWorker(TARGET, COLUMNS, dtype)
        made._encoder.client = service or LocalService()
        return made

    return make


def table(texts):
    return pa.table(
        {"n": pa.array(range(len(texts)), pa.int64()), "text": pa.array(texts, pa.string())}
    )


def expected(text):
    batch = preprocessor().tokenizer.tokenize([text], truncate=True).batch
    return normalized(vector_of(batch.text(0))[None])[0]


async def test_a_bad_row_costs_its_own_vector_only(worker):
    result = await worker()(table(TEXTS))
    assert result.column_names == ["n", "text", "embedding", "embedding_error"]
    assert result["n"].to_pylist() == list(range(6))
    assert result.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert result.schema.field("embedding_error").type == pa.string()
    vectors, reasons = result["embedding"].to_pylist(), result["embedding_error"].to_pylist()
    for row, text in enumerate(TEXTS):
        if row in ENCODED:
            np.testing.assert_allclose(vectors[row], expected(text), atol=1e-6)
        assert (vectors[row] is None) == (reasons[row] is not None) == (row not in ENCODED)
    assert (reasons[1], reasons[4]) == ("null", "empty")
    assert "256 tokens" in reasons[2]


@pytest.mark.parametrize("dtype", [OutputDtype.INT8, OutputDtype.UBINARY])
async def test_codes(worker, dtype):
    result = await worker(dtype=dtype)(table(TEXTS))
    rows = result["embedding"].to_pylist()
    assert [rows[row] is not None for row in range(6)] == [row in ENCODED for row in range(6)]
    codes = quantized(np.stack([expected(TEXTS[row]) for row in ENCODED]), dtype)
    assert result.schema.field("embedding").type.value_type == pa.from_numpy_dtype(codes.dtype)
    # a component on the border of two codes may fall to either side
    apart = np.array([rows[row] for row in ENCODED], int) - codes
    assert (apart != 0).mean() < 0.01


async def test_a_vector_that_is_zero_costs_its_own_row(worker):
    class Zero(LocalService):
        async def encode_tokens(self, batch, lane, timeout_s):
            encoded = await super().encode_tokens(batch, lane, timeout_s)
            return Encoded(encoded.vectors * (batch.lengths > 3)[:, None], 0.0, 0.0)

    result = await worker(Zero(), OutputDtype.INT8)(table(["one", "two words"]))
    assert result["embedding"][1].is_valid
    assert not result["embedding"][0].is_valid
    assert "zero" in result["embedding_error"].to_pylist()[0]


@pytest.mark.parametrize("texts", [[], [None, None]])
async def test_batches_without_a_vector_have_the_same_schema(worker, texts):
    result = await worker()(table(texts))
    assert result.schema == (await worker()(table(TEXTS))).schema
    assert result["embedding"].null_count == len(texts)


async def test_a_text_that_kills_replicas_costs_its_own_row(worker):
    class Refusing(LocalService):
        async def encode_tokens(self, batch, lane, timeout_s):
            encoded = await super().encode_tokens(batch, lane, timeout_s)
            shortest = int(np.argmin(batch.lengths))
            return Encoded(encoded.vectors, 0.0, 0.0, {shortest: KillsReplicas("it kills")})

    result = await worker(Refusing())(table(["two words", "one", "three more words"]))
    assert result["embedding_error"].to_pylist() == [None, "it kills", None]
    assert result["embedding"].null_count == 1


async def test_a_service_without_a_tokenizer_ends_the_pipeline(worker):
    class Absent(LocalService):
        async def ready_preprocessor(self, timeout_s):
            raise ModelUnavailable("no service runs", "model")

    with pytest.raises(JobError, match="no service runs"):
        await worker(Absent())(table(TEXTS))


@pytest.mark.parametrize(
    ("columns", "names", "named"),
    [
        (Columns("body", "embedding", "error"), ["id", "text"], "text_column 'body'"),
        (Columns("text", "id", "error"), ["id", "text"], "column id"),
        (Columns("text", "embedding", "text"), ["id", "text"], "column text"),
        (Columns("text", "same", "same"), ["id", "text"], "'same'"),
    ],
)
def test_columns_that_do_not_fit(columns, names, named):
    with pytest.raises(JobError, match=named):
        columns.check(names)
