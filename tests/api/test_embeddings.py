"""Successful responses of `/v1/embeddings`."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from deployments.api.responses import dump, embeddings_body, rows_of
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.request import Embeddings, EncodeRequest, TokenInput
from tests.api.calls import EMBEDDINGS, app_of, connect, embed, ok, send
from tests.api.fake_backend import INSTRUCT, NESTED, PLAIN, FakeBackend, expected, vector_of

OPENAI_EXTRAS = {
    "user": "u-1",
    "metadata": {"a": 1},
    "timeout": 3,
    "extra_headers": None,
    "embedding_type": "float",
}


def vectors_of(body: dict) -> np.ndarray:
    assert [item["index"] for item in body["data"]] == list(range(len(body["data"])))
    return np.array([item["embedding"] for item in body["data"]], np.float32)


async def test_one_text(client):
    body = await embed(client)
    assert body["object"] == "list"
    assert body["data"][0]["object"] == "embedding"
    assert body["model"] == "plain"
    assert body["space"] == space_id(PLAIN)
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}  # passage: a text, two special
    assert (body["instruction"], body["truncated"]) == (None, [])
    np.testing.assert_array_equal(vectors_of(body), expected(PLAIN, EncodeRequest(("a text",))))


async def test_texts_keep_their_order(client):
    texts = ("c", "a", "b", "a")
    body = await embed(client, input=list(texts))
    np.testing.assert_array_equal(vectors_of(body), expected(PLAIN, EncodeRequest(texts)))


@pytest.mark.parametrize(
    ("fields", "reads"),
    [
        ({}, "passage: a text"),
        ({"input_type": None}, "passage: a text"),
        ({"input_type": "document"}, "passage: a text"),
        ({"input_type": "passage"}, "passage: a text"),
        ({"input_type": "search_document"}, "passage: a text"),
        ({"input_type": "query"}, "query: a text"),
        ({"input_type": "search_query"}, "query: a text"),
        ({"model": "plain-query"}, "query: a text"),
        ({"model": "acme/plain-query"}, "query: a text"),
        ({"model": "small-query"}, "query: a text"),
        ({"model": "plain-query", "input_type": "query"}, "query: a text"),
        ({"model": "plain-document"}, "passage: a text"),
        ({"model": "instruct"}, "a text"),
        ({"model": "instruct-query"}, "Instruct: Find what answers\nQuery: a text"),
        ({"model": "medium", "instruction": "Say {it}"}, "Instruct: Say {it}\nQuery: a text"),
    ],
)
async def test_model_role_and_instruction_decide_the_prompt(client, fields, reads):
    body = await embed(client, **fields, normalize=False)
    np.testing.assert_array_equal(vectors_of(body), [vector_of(reads)])


@pytest.mark.parametrize(
    ("fields", "instruction"),
    [
        ({"input_type": "query"}, "Find what answers"),
        ({"input_type": "query", "instruction": "Find a duck"}, "Find a duck"),
        ({"input_type": "document"}, None),
    ],
)
async def test_the_response_has_the_instruction_that_was_used(client, fields, instruction):
    assert (await embed(client, model="instruct", **fields))["instruction"] == instruction


@pytest.mark.parametrize("model", ["plain", "nested"])
@pytest.mark.parametrize(("normalize", "is_unit"), [(True, True), (False, False), (None, None)])
async def test_normalize(client, model, normalize, is_unit):
    vectors = vectors_of(await embed(client, model=model, normalize=normalize))
    unit = is_unit if is_unit is not None else model == "plain"  # nested is not normalised itself
    assert np.isclose(np.linalg.norm(vectors), 1, atol=1e-6) == unit


@pytest.mark.parametrize("dimensions", [2, 4, 8, None])
async def test_fewer_dimensions_are_a_prefix_and_another_space(client, dimensions):
    body = await embed(client, model="nested", dimensions=dimensions)
    np.testing.assert_array_equal(vectors_of(body), [vector_of("a text")[:dimensions]])
    assert body["space"] == space_id(NESTED, dimensions)


async def test_base64_and_float_are_the_same_bytes(client):
    floats = await embed(client, input=["a", "b"], encoding_format="float")
    coded = await embed(client, input=["a", "b"], encoding_format="base64")
    decoded = [np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in coded["data"]]
    assert np.stack(decoded).tobytes() == vectors_of(floats).tobytes()
    assert floats["usage"] == coded["usage"]


async def test_numbers_have_only_the_digits_of_float32():
    assert dump(rows_of(np.float64([[0.1, 1 / 3]]))) == b"[[0.1,0.33333334]]"
    body = await embeddings_body(Embeddings(np.float32([[0.1, 1 / 3]]), "m", "s", 1), "float")
    assert b'"embedding":[0.1,0.33333334]' in body


async def test_the_response_lists_truncated_texts(client):
    texts = ["short", "long " * 50, "short", "x " * 99]
    body = await embed(client, input=texts, truncate=True)
    assert body["truncated"] == [1, 3]
    assert body["usage"]["prompt_tokens"] == 2 * (2 + 2) + 2 * PLAIN.max_tokens


@pytest.mark.parametrize("rows", [[1, 2, 3], [[1, 2, 3], [4]]])
@pytest.mark.parametrize("tokenizer", ["plain", "acme/plain"])
async def test_token_ids_of_a_named_tokenizer(client, backend, rows, tokenizer):
    body = await embed(client, input=rows, tokenizer=tokenizer)
    request = backend.calls[0][1]
    ids = tuple(map(tuple, rows if isinstance(rows[0], list) else [rows]))
    assert request.texts == TokenInput(tokenizer, ids)
    np.testing.assert_array_equal(vectors_of(body), expected(PLAIN, request))


async def test_priority_chooses_the_lane(client, backend):
    for fields in ({}, {"priority": "online"}, {"priority": "offline"}):
        await embed(client, **fields)
    assert [lane for _, _, lane in backend.calls] == [Lane.ONLINE, Lane.ONLINE, Lane.OFFLINE]


@pytest.mark.parametrize("field", OPENAI_EXTRAS)
async def test_extra_fields_of_openai_clients_are_accepted(client, field):
    plain = await embed(client)
    assert await embed(client, **{field: OPENAI_EXTRAS[field]}) == plain


@pytest.mark.parametrize(
    "text", ["nul \x00 byte", "\x00", " ", "\n", "日本語", "\U0001f600", "\u202e"]
)
async def test_any_unicode_is_a_text(client, text):
    body = await embed(client, input=text, model="instruct", normalize=False)
    np.testing.assert_array_equal(vectors_of(body), [vector_of(text)])


async def test_headers_have_the_model_the_reason_and_the_times(client):
    response = await send(client, EMBEDDINGS, {"model": "medium", "input": "a"})
    ok(response)
    headers = {name: response.headers.get(name) for name in response.headers if name[:2] == "x-"}
    assert headers == {
        "x-model": "instruct",
        "x-embedding-space": space_id(INSTRUCT),
        "x-route-reason": "size",
        "x-queued-ms": "1.5",
        "x-computed-ms": "250.0",
    }


@pytest.mark.parametrize(
    ("model", "reason"),
    [(None, "default"), ("plain", "name"), ("acme/plain", "name"), ("small", "size")],
)
async def test_the_reason_of_the_choice(client, model, reason):
    response = await send(client, EMBEDDINGS, {"model": model, "input": "a"})
    assert response.headers["x-route-reason"] == reason


@pytest.mark.parametrize(
    ("default", "sent", "used"),
    [(True, None, True), (True, False, False), (False, None, False), (False, True, True)],
)
async def test_truncate_in_the_request_overrides_the_config(default, sent, used):
    backend = FakeBackend()
    async with connect(app_of(backend, truncate=default)) as http:
        await embed(http, truncate=sent)
    assert backend.calls[0][1].truncate is used
