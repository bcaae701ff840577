"""Limits of one request; a bad request costs no more than a good one."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.api import bodies, body_errors, requests
from deployments.core.lane import Lane
from tests.api.calls import (
    EMBEDDINGS,
    JSON,
    RERANK,
    SIMILARITY,
    app_of,
    check_refusal,
    connect,
    error_of,
    send,
)
from tests.api.fake_backend import FakeBackend

INVALID = "invalid_value"


@pytest.mark.parametrize("path", [EMBEDDINGS, SIMILARITY, RERANK])
async def test_a_body_of_ten_megabytes(client, path):
    body = b'{"input": "' + b"a" * 10_000_000 + b'"}'
    advice = ("8000000 bytes", "limits.max_body_bytes")
    check_refusal(await send(client, path, body), 413, None, "body_too_large", *advice)


@pytest.mark.parametrize(("size", "status"), [(100, 200), (101, 413)])
async def test_the_limit_of_a_body_is_exact(size, status):
    body = b'{"input": "a"}'.ljust(size)
    async with connect(app_of(FakeBackend(), max_body_bytes=100)) as http:
        assert (await send(http, EMBEDDINGS, body)).status_code == status


@pytest.mark.parametrize("path", [EMBEDDINGS, SIMILARITY, RERANK])
async def test_a_body_that_does_not_arrive(path):
    async def trickle():
        yield b'{"input": "'
        await asyncio.Event().wait()

    app = app_of(FakeBackend(), request_timeout_s=0.05)
    async with asyncio.timeout(10), connect(app) as http:
        response = await http.post(path, content=trickle(), headers=JSON)
    advice = ("0.05 s", "limits.request_timeout_s")
    check_refusal(response, 408, None, "body_timeout", *advice)
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("path", [EMBEDDINGS, SIMILARITY, RERANK, "/v1/route"])
async def test_a_choice_that_takes_too_long(path):
    class Slow(FakeBackend):
        async def choose(self, facts, texts):
            await asyncio.Event().wait()

    async with asyncio.timeout(10), connect(app_of(Slow(), request_timeout_s=0.05)) as http:
        body = {"input": "a"} if path in (EMBEDDINGS, "/v1/route") else {"query": "a"}
        response = await send(http, path, {**body, "documents": ["b"]})
    check_refusal(response, 504, None, "deadline_exceeded", "deadline")


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        (EMBEDDINGS, "input", {"input": ["a"] * 3}),
        (EMBEDDINGS, "input", {"input": [[1]] * 3, "tokenizer": "plain"}),
        (SIMILARITY, "query", {"query": ["a"] * 3, "documents": "a"}),
        (SIMILARITY, "documents", {"query": "a", "documents": ["a"] * 3}),
        (RERANK, "documents", {"query": "a", "documents": ["a"] * 3}),
    ],
)
async def test_too_many_texts(path, field, body):
    backend = FakeBackend()
    async with connect(app_of(backend, max_texts=2)) as http:
        response = await send(http, path, body)
    advice = (f"`{field}` holds 3 texts", "at most 2")
    check_refusal(response, 400, field, INVALID, *advice)
    assert backend.calls == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (EMBEDDINGS, {"input": ["a"] * 2}),
        (SIMILARITY, {"query": ["a"] * 2, "documents": ["a"] * 2}),
        (RERANK, {"query": "a", "documents": ["a"] * 2}),
    ],
)
async def test_as_many_texts_as_allowed(path, body):
    async with connect(app_of(FakeBackend(), max_texts=2)) as http:
        assert (await send(http, path, body)).status_code == 200


@pytest.mark.parametrize("item", [1.5, "", [1.5], None])
@pytest.mark.parametrize(("path", "field"), [(EMBEDDINGS, "input"), (RERANK, "documents")])
async def test_only_a_few_wrong_items_are_collected(client, monkeypatch, path, field, item):
    counts: list[int] = []
    body_error = requests.body_error
    monkeypatch.setattr(
        requests,
        "body_error",
        lambda e, *others: counts.append(e.error_count()) or body_error(e, *others),
    )
    response = await send(client, path, {"query": "a", field: [item] * 2_500})
    assert error_of(response)["param"] == field
    assert counts[0] < 20


async def test_only_a_few_unknown_fields_are_compared(client, monkeypatch):
    compared: list[str] = []
    monkeypatch.setattr(
        body_errors, "get_close_matches", lambda name, *_, **__: compared.append(name)
    )
    extras = {f"zinput{number}": 1 for number in range(10_000)}
    assert (await send(client, EMBEDDINGS, {"input": "a", **extras})).status_code == 200
    assert 0 < len(compared) <= 1_000


class Busy(FakeBackend):
    """Offline requests wait for ``free``."""

    def __init__(self):
        super().__init__()
        self.begun, self.free = asyncio.Event(), asyncio.Event()

    async def encode(self, decision, request, lane, deadline):
        if lane is Lane.OFFLINE:
            self.begun.set()
            await self.free.wait()
        return await super().encode(decision, request, lane, deadline)


async def test_offline_requests_leave_room_for_others():
    busy = Busy()
    offline = {"input": "a", "priority": "offline"}
    async with asyncio.timeout(10), connect(app_of(busy, max_offline=1)) as http:
        waiting = asyncio.create_task(send(http, EMBEDDINGS, offline))
        await busy.begun.wait()
        refused = await send(http, EMBEDDINGS, offline)
        check_refusal(refused, 429, None, "overloaded", "offline")
        assert int(refused.headers["retry-after"]) >= 1
        assert (await send(http, EMBEDDINGS, {"input": "a"})).status_code == 200
        busy.free.set()
        assert (await waiting).status_code == 200
        assert (await send(http, EMBEDDINGS, offline)).status_code == 200


@pytest.mark.parametrize(("path", "extra"), [(SIMILARITY, {}), (RERANK, {})])
async def test_offline_scoring_counts_among_the_offline_requests(path, extra):
    busy = Busy()
    online = {"query": "a", "documents": ["b"]}
    offline = {**online, "priority": "offline"}
    async with asyncio.timeout(10), connect(app_of(busy, max_offline=1)) as http:
        waiting = asyncio.create_task(send(http, path, offline))
        await busy.begun.wait()
        check_refusal(await send(http, path, offline), 429, None, "overloaded", "offline")
        embedding = {"input": "a", "priority": "offline"}
        check_refusal(await send(http, EMBEDDINGS, embedding), 429, None, "overloaded", "offline")
        assert (await send(http, path, online)).status_code == 200
        busy.free.set()
        assert (await waiting).status_code == 200


MANY = 300_000


@pytest.mark.parametrize(
    ("path", "field", "body"),
    [
        (
            EMBEDDINGS,
            "input",
            b'{"tokenizer": "plain", "input": [%s]}' % b",".join([b"[1]"] * MANY),
        ),
        (EMBEDDINGS, "input", b'{"tokenizer": "plain", "input": [%s]}' % b",".join([b"1"] * MANY)),
        (EMBEDDINGS, "input", b'{"input": [%s]}' % b",".join([b'"a"'] * MANY)),
        (EMBEDDINGS, "input", b'{"input": "a", "metadata": [%s]}' % b",".join([b"{}"] * MANY)),
        (
            EMBEDDINGS,
            "input",
            b'{"input": "a", %s}' % b",".join(b'"%d":0' % i for i in range(MANY)),
        ),
        (
            RERANK,
            "documents",
            b'{"query": "a", "documents": [%s]}' % b",".join([b'{"text":"a"}'] * MANY),
        ),
        (
            SIMILARITY,
            "documents",
            b'{"query": "a", "documents": [%s]}' % b",".join([b'"a"'] * MANY),
        ),
    ],
    ids=["lists", "ids", "texts", "extra", "fields", "documents", "similarity"],
)
async def test_many_values_are_counted_before_they_are_parsed(
    client, monkeypatch, path, field, body
):
    monkeypatch.setattr(bodies, "parse", lambda *_: pytest.fail("parsed"))
    check_refusal(await send(client, path, body), 400, field, INVALID, "send several requests")


@pytest.mark.parametrize(
    "text", [",[{" * 100_000, '"' * 300_000, "\\" * 300_000, '\\"[' * 99_999, '["a",' * 90_000]
)
async def test_what_stands_in_a_text_is_not_counted(client, text):
    body = {"model": "nested", "input": [text, "a"]}
    assert (await send(client, EMBEDDINGS, body)).status_code == 200


JSON_VALUES = st.recursive(
    st.none() | st.integers() | st.text('a",[]{}\\:'),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('a",[{\\'), inner, max_size=4)
    ),
    max_leaves=20,
)


def counts_of(value):
    """Returns the lists, objects and commas of a value, as a parser sees them."""
    if not isinstance(value, list | dict):
        return (0, 0, 0)
    inner = [counts_of(v) for v in (value if isinstance(value, list) else value.values())]
    lists, objects, commas = (sum(numbers) for numbers in zip((0, 0, 0), *inner, strict=True))
    is_list = isinstance(value, list)
    return lists + is_list, objects + (not is_list), commas + max(0, len(value) - 1)


@given(JSON_VALUES, st.sampled_from([None, 1]))
def test_values_are_counted_as_a_parser_does(value, indent):
    lists, objects, commas = counts_of(value)
    body = json.dumps(value, indent=indent).encode()
    assert bodies.count_values(body) == (lists, objects, commas + 1)


async def test_a_name_of_megabytes_is_not_compared(client, monkeypatch):
    compared: list[str] = []
    monkeypatch.setattr(
        body_errors, "get_close_matches", lambda name, *_, **__: compared.append(name)
    )
    fields = {"x" * 3_000_000: 1, "y" * 41: 1, "z" * 40: 1}
    assert (await send(client, EMBEDDINGS, {"input": "a", **fields})).status_code == 200
    assert compared == ["z" * 40]


async def test_a_header_of_kilobytes_is_no_space(client):
    headers = {**JSON, "x-require-space": "a" * 513}
    response = await client.post(EMBEDDINGS, content=b'{"input": "a"}', headers=headers)
    check_refusal(response, 400, "space", INVALID, "513 characters")
    assert len(response.content) < 1_000
