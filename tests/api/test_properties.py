"""Whatever is sent, the answer is never a 5xx, and every refusal has the same shape."""

from __future__ import annotations

import json
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deployments.api.requests import EmbeddingRequest, RerankRequest, SimilarityRequest
from deployments.api.responses import embeddings_body
from deployments.core.request import Embeddings
from tests.api.calls import EMBEDDINGS, RERANK, SIMILARITY, error_of, send

KINDS = {
    EMBEDDINGS: EmbeddingRequest,
    SIMILARITY: SimilarityRequest,
    RERANK: RerankRequest,
}
VALID = {
    EMBEDDINGS: {"input": "a"},
    SIMILARITY: {"query": "a", "documents": ["b"]},
    RERANK: {"query": "a", "documents": ["b"]},
}
PATHS = st.sampled_from(list(KINDS))
TEXT = st.text(st.characters(), max_size=20)  # surrogates too
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
VALUES = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=8
)
NAMES = st.sampled_from(sorted({name for kind in KINDS.values() for name in kind.model_fields}))
LIKELY = st.sampled_from(
    ["plain", "instruct-query", "nested", "query", "online", "float", "base64"]
)


def check(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    if response.status_code != 200:
        error_of(response)


@given(path=PATHS, body=VALUES)
async def test_any_json_as_body(shared, path, body):
    check(await send(shared, path, body))


@given(path=PATHS, body=st.binary(max_size=60))
async def test_any_bytes_as_body(shared, path, body):
    check(await send(shared, path, body))


@given(text=TEXT)
@example("\ud800")
@example("\x00")
@example("a" * 1_000_000)
@example("a " * 100_000)
async def test_any_text_as_input(shared, text):
    response = await send(shared, EMBEDDINGS, {"model": "nested", "input": text})
    check(response)
    encodable = max(text, default="") < "\ud800" or not any("\ud800" <= c <= "\udfff" for c in text)
    assert (response.status_code == 200) == (encodable and bool(text))


@given(path=PATHS, extras=st.dictionaries(TEXT, VALUES, max_size=5))
async def test_any_extra_fields(shared, path, extras):
    check(await send(shared, path, {**extras, **VALID[path]}))


@given(path=PATHS, fields=st.dictionaries(NAMES, VALUES | LIKELY, max_size=4))
async def test_any_values_in_known_fields(shared, path, fields):
    check(await send(shared, path, {**VALID[path], **fields}))


@given(method=st.sampled_from(["GET", "POST", "PUT", "HEAD"]), path=st.text(max_size=20))
async def test_any_path(shared, method, path):
    response = await shared.request(method, f"/{quote(path)}")
    assert response.status_code < 500


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
@pytest.mark.parametrize("spread", [1.0, 1e-3])
async def test_a_float32_survives_json_to_the_last_bit(spread, numbers):
    vectors = np.array([numbers], np.float32) * np.float32(spread)
    body = json.loads(await embeddings_body(Embeddings(vectors, "m", "s", 1), "float"))
    back = np.array([body["data"][0]["embedding"]], np.float32)
    assert back.tobytes() == vectors.tobytes()


@given(st.integers(1, 5), st.integers(1, 9))
async def test_vectors_that_are_a_slice_of_a_larger_array_are_written_correctly(rows, columns):
    whole = np.arange(90, dtype=np.float32).reshape(9, 10)
    embeddings = Embeddings(whole[:rows, :columns], "m", "s", 1)
    data = json.loads(await embeddings_body(embeddings, "float"))["data"]
    assert [item["embedding"] for item in data] == embeddings.vectors.tolist()
