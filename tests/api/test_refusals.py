"""Requests that are refused, each with its status, field and code, and with advice."""

from __future__ import annotations

import pytest

from tests.api.calls import EMBEDDINGS, JSON, RERANK, SIMILARITY, check_refusal, ok, send

NAN, INFINITE = float("nan"), float("inf")
INVALID = "invalid_value"

NOT_AN_OBJECT = [b"[]", b"null", b'"a text"', b"3", b"true"]
NOT_JSON = [
    b"",
    b"{",
    b'{"input": "a"',
    b"input=a",
    b"{'input': 'a'}",
    b"[" * 9999,
]
EMPTY_TEXTS = ["", [""], ["a", ""], ["", "a"]]
NOT_TEXTS = [1, 1.5, None, True, {}, {"text": "a"}, [None], ["a", 1], ["a", None], [["a"]], [1.5]]
MORE_NOT_TEXTS = [[True], [-1], [2**31], [1, "a"], [["a", "b"], ["c"]], [[1], "a"], [[[1]]], [{}]]
DIMENSIONS = [0, -1, 1.5, 8.0, NAN, INFINITE, -INFINITE, "8", "a", True, [], [8], {}]
OTHER_FIELDS = [
    ("encoding_format", "hex", "'float', 'base64' or 'sparse'"),
    ("encoding_format", 1, "'float', 'base64' or 'sparse'"),
    ("input_type", "question", "'query', 'document'"),
    ("input_type", 1, "'query', 'document'"),
    ("priority", "high", "'online' or 'offline'"),
    ("truncate", "yes", "boolean"),
    ("truncate", 1, "boolean"),
    ("normalize", "false", "boolean"),
    ("model", "", "at least 1 character"),
    ("model", 1, "string"),
    ("model", ["plain"], "string"),
    ("instruction", "", "at least 1 character"),
    ("instruction", ["a"], "string"),
    ("instruction", "a" * 4_097, "at most 4096 characters"),
    ("model", "a" * 513, "at most 512 characters"),
    ("space", "a" * 513, "at most 512 characters"),
    ("tokenizer", 1, "string"),
    ("user", 1, "string"),
]
MISSPELT = [
    ("input_typ", "input_type"),
    ("inputType", "input_type"),
    ("INPUT_TYPE", "input_type"),
    ("dimension", "dimensions"),
    ("Dimensions", "dimensions"),
    ("encoding_fromat", "encoding_format"),
    ("normalise", "normalize"),
    ("truncat", "truncate"),
    ("instructions", "instruction"),
]


async def refused(http, status, param, code, *advice, **fields):
    response = await send(http, EMBEDDINGS, {"input": "a", **fields})
    check_refusal(response, status, param, code, *advice)


@pytest.mark.parametrize("path", [EMBEDDINGS, SIMILARITY, RERANK])
@pytest.mark.parametrize("body", NOT_AN_OBJECT)
async def test_a_body_that_is_not_an_object(client, path, body):
    check_refusal(await send(client, path, body), 400, None, INVALID, "JSON object")


@pytest.mark.parametrize("path", [EMBEDDINGS, SIMILARITY, RERANK])
@pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
async def test_a_body_that_is_not_json(client, path, body):
    check_refusal(await send(client, path, body), 400, None, INVALID, "not valid JSON")


@pytest.mark.parametrize(
    ("body", "byte"),
    [
        ('{"input": "größe"}'.encode("latin-1"), "0xF6 at position 13"),
        (b'{"input": "\xed\xa0\x80"}', "0xED at position 11"),
        ('{"input": "a"}'.encode("utf-16"), "0xFF at position 0"),
        (b"\x80", "0x80 at position 0"),
    ],
)
async def test_a_body_that_is_not_utf_8(client, body, byte):
    check_refusal(await send(client, EMBEDDINGS, body), 400, None, INVALID, "not UTF-8", byte)


@pytest.mark.parametrize("text", ["\ud800", "a\udc00b", "\ud83dx"])
@pytest.mark.parametrize("field", ["input", "instruction", "model", "anything"])
async def test_half_of_a_surrogate_pair(client, text, field):
    advice = (f"`{field}` is not valid Unicode", "surrogate pair")
    await refused(client, 400, field, INVALID, *advice, **{field: text})


@pytest.mark.parametrize(
    ("texts", "places"),
    [
        (["a", "\ud800"], "`input[1]` is"),
        (["\ud800", "a", "b\udfff"], "`input[0]` and `input[2]` are"),
        (["\ud800"] * 9, "`input[4]` and 4 more are"),
    ],
)
async def test_each_text_with_half_of_a_surrogate_pair_is_named(client, texts, places):
    await refused(client, 400, "input", INVALID, places, input=texts)


async def test_half_of_a_surrogate_pair_in_a_field_name(client):
    await refused(client, 400, None, INVALID, "surrogate pair", **{"\ud800": 1})


async def test_a_large_body_is_not_examined_for_the_place(client):
    texts = ["a" * 1_000] * 300 + ["\ud800"]
    await refused(client, 400, None, INVALID, "surrogate pair", input=texts)


@pytest.mark.parametrize(
    ("texts", "advice"),
    [
        (["a", ""], "`input[1]` is an empty string"),
        (["", "a", ""], "`input[0]` and `input[2]` are empty strings"),
        (["a", 1, "b", None], "`input[1]` and `input[3]` must be strings"),
        (["a", *[1] * 9], "`input[1]`, `input[2]`, `input[3]`, `input[4]`, `input[5]` and 4 more"),
    ],
)
async def test_each_wrong_text_is_named(client, texts, advice):
    await refused(client, 400, "input", INVALID, advice, input=texts)


async def test_each_wrong_document_is_named(client):
    documents = ["a", {"text": ""}, {"text": "b"}, ""]
    response = await send(client, RERANK, {"query": "a", "documents": documents})
    check_refusal(response, 400, "documents", INVALID, "`documents[1]` and `documents[3]` are")


@pytest.mark.parametrize(
    ("path", "field"), [(SIMILARITY, "return_embeddings"), (RERANK, "return_documents")]
)
async def test_null_for_a_flag_is_absent(client, path, field):
    body = {"query": "a", "documents": ["b"]}
    answer = ok(await send(client, path, {**body, field: None}))
    assert answer == ok(await send(client, path, body))
    assert (await send(client, path, {**body, field: "yes"})).status_code == 400


@pytest.mark.parametrize(
    ("path", "body", "field", "sent"),
    [
        (EMBEDDINGS, {"inputs": ["a"]}, "input", "inputs"),
        (RERANK, {"query": "a", "texts": ["b"]}, "documents", "texts"),
        (SIMILARITY, {"text_1": "a", "documents": ["b"]}, "query", "text_1"),
    ],
)
async def test_a_field_by_its_name_on_another_server(client, path, body, field, sent):
    advice = f"`{sent}`"
    check_refusal(await send(client, path, body), 400, field, INVALID, advice)


async def test_a_missing_input(client):
    response = await send(client, EMBEDDINGS, {"model": "plain"})
    check_refusal(response, 400, "input", INVALID, "missing")


@pytest.mark.parametrize("value", EMPTY_TEXTS)
async def test_an_empty_text(client, value):
    await refused(client, 400, "input", INVALID, "empty string", input=value)


@pytest.mark.parametrize("value", [[], [[]], [[], [1]], [[1], []]])
async def test_an_empty_list(client, value):
    await refused(client, 400, "input", INVALID, "empty list", input=value)


@pytest.mark.parametrize("value", NOT_TEXTS + MORE_NOT_TEXTS)
async def test_an_input_that_is_not_text(client, value):
    await refused(client, 400, "input", INVALID, "a text or a list of texts", input=value)


@pytest.mark.parametrize("value", DIMENSIONS, ids=range(len(DIMENSIONS)))
async def test_a_wrong_number_of_dimensions(client, value):
    advice = "greater than or equal to 1" if value in (0, -1) else "whole number"
    await refused(client, 400, "dimensions", INVALID, advice, dimensions=value)


@pytest.mark.parametrize("digits", [5_000, 100_000])
async def test_a_number_too_long_to_print(client, digits):
    body = b'{"input": "a", "dimensions": ' + b"9" * digits + b"}"
    check_refusal(await send(client, EMBEDDINGS, body), 400, None, INVALID, "out of range")


@pytest.mark.parametrize(
    ("model", "asked", "advice"),
    [
        ("plain", 4, "plain gives 8 dimensions (if it was trained to be cut"),
        ("plain", 9, "plain gives 8 dimensions"),
        ("plain", 10**400, "plain gives 8 dimensions"),
        ("nested", 3, "nested gives 2 or 4 or 8 dimensions"),
    ],
)
async def test_dimensions_that_the_model_cannot_give(client, model, asked, advice):
    fields = {"model": model, "dimensions": asked}
    await refused(client, 400, "dimensions", INVALID, advice, f"not {asked}", **fields)


@pytest.mark.parametrize(("field", "value", "advice"), OTHER_FIELDS)
async def test_other_fields(client, field, value, advice):
    await refused(client, 400, field, INVALID, f"`{field}`", advice, **{field: value})


@pytest.mark.parametrize(
    ("value", "item"),
    [(["a", ""], 1), (["", "a"], 0), (["a", "b", None], 2), (["a", 1], 1), (["a", {}], 1)],
)
async def test_the_wrong_item_is_named(client, value, item):
    await refused(client, 400, "input", INVALID, f"`input[{item}]`", input=value)


@pytest.mark.parametrize("field", ["encoding_format", "priority", "dimensions", "aim", "user"])
async def test_null_means_the_default(client, field):
    assert (await send(client, EMBEDDINGS, {"input": "a", field: None})).status_code == 200


@pytest.mark.parametrize("path", [EMBEDDINGS, SIMILARITY, RERANK])
async def test_a_compressed_body(client, path):
    headers = {**JSON, "content-encoding": "gzip"}
    response = await client.post(path, content=b"\x1f\x8b", headers=headers)
    check_refusal(response, 415, None, "unsupported_encoding", "compressed (gzip)")


@pytest.mark.parametrize(("field", "meant"), MISSPELT)
async def test_a_misspelt_field_is_corrected(client, field, meant):
    advice = f"unknown field `{field}`; did you mean `{meant}`?"
    await refused(client, 400, field, INVALID, advice, **{field: "query"})


@pytest.mark.parametrize(
    "model", ["gpt-9", "acme/", "plain-", "-query", "plain-query-query", "\x00"]
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBEDDINGS, {"input": "a"}),
        (SIMILARITY, {"query": "a", "documents": "b"}),
        (RERANK, {"query": "a", "documents": ["b"]}),
    ],
)
async def test_an_unknown_model(client, path, body, model):
    response = await send(client, path, {**body, "model": model})
    known = "known: plain, instruct, nested, small, medium"
    check_refusal(response, 404, "model", "model_not_found", known, repr(model))


@pytest.mark.parametrize("fields", [{}, {"truncate": None}, {"truncate": False}])
async def test_a_text_over_the_limit(client, fields):
    texts = ["a", "a " * 40]
    await refused(client, 400, "input", "context_length_exceeded", input=texts, **fields)


async def test_an_instruction_for_a_model_that_takes_none(client):
    advice = ("plain", "instruct model")
    await refused(client, 400, "instruction", INVALID, *advice, instruction="Find a duck")


async def test_an_instruction_for_documents(client):
    fields = {"model": "instruct", "instruction": "Find a duck", "input_type": "document"}
    await refused(client, 400, "instruction", INVALID, 'set `input_type` to "query"', **fields)


@pytest.mark.parametrize(
    ("name", "role"), [("plain-query", "document"), ("small-document", "query")]
)
async def test_name_and_input_type_contradict_each_other(client, name, role):
    fields = {"model": name, "input_type": role}
    await refused(
        client, 400, "input_type", INVALID, f'`input_type` is "{role}"; drop one', **fields
    )


@pytest.mark.parametrize("rows", [[1, 2], [[1, 2], [3]], [0]])
async def test_token_ids_of_an_unnamed_tokenizer(client, backend, rows):
    advice = ("token ids", "check_embedding_ctx_length=False", "`tokenizer`")
    await refused(client, 400, "input", INVALID, *advice, input=rows)
    assert backend.calls == []


@pytest.mark.parametrize("tokenizer", ["cl100k_base", "instruct", ""])
async def test_token_ids_of_a_foreign_tokenizer(client, tokenizer):
    await refused(client, 400, "tokenizer", INVALID, input=[1, 2], tokenizer=tokenizer)


@pytest.mark.parametrize("encoding", ["identity", "Identity", "IDENTITY", ""])
async def test_the_encoding_of_an_uncompressed_body_in_any_case(client, encoding):
    headers = {**JSON, "content-encoding": encoding}
    response = await client.post(EMBEDDINGS, content=b'{"input": "a"}', headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("path", [EMBEDDINGS, SIMILARITY, RERANK, "/v1/route"])
@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded"],
)
async def test_a_body_that_a_page_of_another_site_could_send(client, path, kind):
    headers = {} if kind is None else {"content-type": kind}
    response = await client.post(path, content=b'{"input": "a"}', headers=headers)
    check_refusal(response, 415, "content-type", "unsupported_media_type", "application/json")


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/a+json",
    ],
)
async def test_json_by_any_of_its_names(client, kind):
    headers = {"content-type": kind}
    response = await client.post(EMBEDDINGS, content=b'{"input": "a"}', headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("method", "path"), [("POST", f"{EMBEDDINGS}/"), ("GET", "/v1/models/"), ("GET", "/health/")]
)
async def test_a_slash_behind_a_path_is_left_out(client, method, path):
    content = b'{"input": "a"}' if method == "POST" else None
    response = await client.request(method, path, content=content, headers=JSON)
    assert response.status_code == 200
