"""``output_dtype`` of `/v1/embeddings`: what is on the wire, and the space it says."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from deployments.core.models.space import space_id
from deployments.core.quantization import OutputDtype, quantized
from deployments.core.request import EncodeRequest
from tests.api.calls import EMBEDDINGS, RERANK, check_refusal, embed, send
from tests.api.fake_backend import NESTED, PLAIN, expected

KINDS = {
    "float32": "<f4",
    "float16": "<f2",
    "int8": "i1",
    "uint8": "u1",
    "binary": "i1",
    "ubinary": "u1",
}
SPACE = space_id(PLAIN)


@pytest.mark.parametrize("dtype", KINDS)
async def test_base64_and_numbers_hold_the_same(client, dtype):
    fields = {"input": ["a", "b c"], "output_dtype": dtype}
    numbers = await embed(client, **fields)
    packed = await embed(client, **fields, encoding_format="base64")
    vectors = expected(PLAIN, EncodeRequest(("a", "b c")))
    wanted = quantized(vectors, OutputDtype(dtype))
    for item, row in zip(packed["data"], wanted, strict=True):
        actual = np.frombuffer(base64.b64decode(item["embedding"]), KINDS[dtype])
        assert np.array_equal(actual, row)
    for item, row in zip(numbers["data"], wanted, strict=True):
        assert np.array_equal(np.array(item["embedding"], KINDS[dtype]), row)
    suffix = "" if dtype.startswith("float") else f"+{dtype}"
    assert numbers["space"] == packed["space"] == SPACE + suffix


@pytest.mark.parametrize("dtype", [None, "float", "float32"])
async def test_floats_are_the_default(client, dtype):
    assert await embed(client, output_dtype=dtype) == await embed(client)


@pytest.mark.parametrize("dtype", ["int4", "", 8, "INT8"])
async def test_an_unknown_kind(client, dtype):
    response = await send(client, EMBEDDINGS, {"input": "a", "output_dtype": dtype})
    check_refusal(response, 400, "output_dtype", "invalid_value", "`output_dtype`")


async def test_the_header_says_the_space_of_the_codes(client):
    response = await send(client, EMBEDDINGS, {"input": "a", "output_dtype": "binary"})
    assert response.headers["x-embedding-space"] == f"{SPACE}+binary"


@pytest.mark.parametrize(
    ("space", "dtype", "status"),
    [
        (SPACE, "float32", 200),
        (SPACE, "float16", 200),
        (f"{SPACE}+int8", "int8", 200),
        (f"{SPACE}+ubinary", "ubinary", 200),
        (SPACE, "int8", 409),
        (f"{SPACE}+int8", "float32", 409),
        (f"{SPACE}+int8", "uint8", 409),
        (f"{SPACE}+", "float32", 409),
    ],
)
async def test_an_index_of_codes_is_never_asked_with_floats(client, space, dtype, status):
    response = await send(client, EMBEDDINGS, {"input": "a", "space": space, "output_dtype": dtype})
    assert response.status_code == status, response.text
    if status == 409:
        check_refusal(response, 409, "space", "embedding_space_mismatch", "")


async def test_bytes_need_vectors_of_length_1(client):
    body = {"input": "a", "output_dtype": "int8", "normalize": False}
    response = await send(client, EMBEDDINGS, body)
    check_refusal(response, 400, "output_dtype", "invalid_value", "`normalize`")
    assert (await embed(client, **{**body, "output_dtype": "binary"}))["space"] == f"{SPACE}+binary"


async def test_a_prefix_of_codes(client):
    fields = {"model": "nested", "dimensions": 2, "normalize": True, "output_dtype": "int8"}
    assert (await embed(client, **fields))["space"] == f"{space_id(NESTED, 2)}+int8"


async def test_other_routes_refuse_it(client):
    body = {"query": "a", "documents": ["b"], "output_dtype": "int8"}
    check_refusal(await send(client, RERANK, body), 400, "output_dtype", "invalid_value", "")
