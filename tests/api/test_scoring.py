"""`/v1/similarity` and `/v1/rerank`: cosines of both sides, which one model encodes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from deployments.core.errors import ModelUnavailable, Overloaded
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.models.spec import Role
from deployments.core.request import EncodeRequest
from deployments.core.routing.policy import Decision
from tests.api.calls import RERANK, SIMILARITY, check_refusal, ok, send
from tests.api.fake_backend import INSTRUCT, NESTED, PLAIN, SPECS, expected, vector_of

QUERIES, DOCUMENTS = ("a duck", "a goose"), ("a duck", "a swan", "a crow")


def cosines(spec, queries=QUERIES, documents=DOCUMENTS, instruction=None):
    left = expected(spec, EncodeRequest(queries, Role.QUERY, instruction)).astype(np.float64)
    right = expected(spec, EncodeRequest(documents)).astype(np.float64)
    norms = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    return left @ right.T / norms


async def similarity(http, **fields):
    body = {"query": list(QUERIES), "documents": list(DOCUMENTS), **fields}
    return ok(await send(http, SIMILARITY, body))


async def rerank(http, **fields):
    body = {"query": QUERIES[0], "documents": list(DOCUMENTS), **fields}
    return ok(await send(http, RERANK, body))


@pytest.mark.parametrize("model", SPECS)
@pytest.mark.parametrize("normalize", [None, True, False])
async def test_scores_are_cosines_whatever_the_vectors_lengths(client, model, normalize):
    body = await similarity(client, model=model, normalize=normalize)
    np.testing.assert_allclose(body["scores"], cosines(SPECS[model]), atol=1e-6)
    assert body["object"] == "similarity"


@pytest.mark.parametrize(
    ("query", "documents"),
    [("a duck", "a swan"), (["a duck"], "a swan"), ("a duck", ["a swan"]), (["a"], ["b"])],
)
async def test_one_text_stands_for_a_list_of_one(client, query, documents):
    scores = (await similarity(client, query=query, documents=documents))["scores"]
    sides = [(side,) if isinstance(side, str) else tuple(side) for side in (query, documents)]
    np.testing.assert_allclose(scores, cosines(PLAIN, *sides), atol=1e-6)


async def test_both_sides_go_to_one_model_each_in_its_role(client, backend):
    await similarity(client, model="medium", instruction="Find a duck", priority="offline")
    queries, documents = sorted(backend.calls, key=lambda call: call[1].role, reverse=True)
    request = EncodeRequest(QUERIES, Role.QUERY, "Find a duck")
    assert queries == ("instruct", request, Lane.OFFLINE)
    assert documents == ("instruct", EncodeRequest(DOCUMENTS), Lane.OFFLINE)


@pytest.mark.parametrize(
    ("model", "instruction", "used"),
    [
        ("plain", None, None),
        ("instruct", None, "Find what answers"),
        ("instruct", "Find a duck", "Find a duck"),
    ],
)
async def test_the_response_has_model_space_and_instruction(client, model, instruction, used):
    for body in (
        await similarity(client, model=model, instruction=instruction),
        await rerank(client, model=model, instruction=instruction),
    ):
        assert (body["model"], body["space"]) == (model, space_id(SPECS[model]))
        assert body["instruction"] == used


async def test_usage_is_the_sum_of_both_sides(client):
    body = await similarity(client, model="nested", query="one two", documents=["three", "four 4"])
    assert body["usage"] == {"prompt_tokens": 4 + 3 + 4, "total_tokens": 4 + 3 + 4}


async def test_truncated_texts_are_listed_for_each_side(client):
    long = "long " * 50
    body = await similarity(client, query=["a", long], documents=[long, "b", long], truncate=True)
    assert body["truncated"] == {"query": [1], "documents": [0, 2]}


@pytest.mark.parametrize(("side", "long"), [("query", ["x " * 50]), ("documents", ["x " * 50])])
@pytest.mark.parametrize("path", [SIMILARITY, RERANK])
async def test_a_text_over_the_limit_on_either_side(client, path, side, long):
    text = long[0] if (path, side) == (RERANK, "query") else long
    body = {"query": "a", "documents": ["b"], side: text}
    response = await send(client, path, body)
    check_refusal(response, 400, side, "context_length_exceeded", f"`{side}`")


async def test_vectors_are_returned_on_request(client):
    assert "query_embeddings" not in await similarity(client)
    body = await similarity(client, model="nested", return_embeddings=True)
    queries = [vector_of(text) for text in QUERIES]
    np.testing.assert_array_equal(np.float32(body["query_embeddings"]), queries)
    documents = [vector_of(text) for text in DOCUMENTS]
    np.testing.assert_array_equal(np.float32(body["document_embeddings"]), documents)


@pytest.mark.parametrize("top_n", [None, 1, 2, 3, 9])
async def test_the_best_documents_first(client, top_n):
    body = await rerank(client, top_n=top_n)
    scores = cosines(PLAIN)[0]
    best = np.argsort(-scores)[:top_n]
    assert [result["index"] for result in body["results"]] == best.tolist()
    returned = [result["relevance_score"] for result in body["results"]]
    np.testing.assert_allclose(returned, scores[best], atol=1e-6)
    assert body["object"] == "rerank"


async def test_equal_scores_keep_the_requests_order(client):
    body = await rerank(client, documents=["b", "a"] * 50)
    order = [result["index"] for result in body["results"]]
    evens, odds = list(range(0, 100, 2)), list(range(1, 100, 2))
    assert order in (evens + odds, odds + evens)


@pytest.mark.parametrize("shape", [lambda text: text, lambda text: {"text": text}])
async def test_documents_are_returned_on_request(client, shape):
    documents = [shape(text) for text in DOCUMENTS]
    body = await rerank(client, documents=documents, return_documents=True)
    for result in body["results"]:
        assert result["document"] == {"text": DOCUMENTS[result["index"]]}
    assert "document" not in (await rerank(client, documents=documents))["results"][0]


async def test_a_vector_of_zeros_scores_zero(client, backend):
    backend.vectors = lambda spec, request: np.zeros((len(request.texts), 8), np.float32)
    assert (await similarity(client))["scores"] == [[0, 0, 0], [0, 0, 0]]


async def test_headers_are_those_of_an_embedding(client):
    body = {"model": "acme/nested", "query": "a", "documents": ["b"]}
    for path in (SIMILARITY, RERANK):
        headers = (await send(client, path, body)).headers
        assert headers["x-model"] == "nested"
        assert headers["x-embedding-space"] == space_id(NESTED)
        assert (headers["x-route-reason"], headers["x-queued-ms"]) == ("name", "1.5")


async def test_when_one_side_is_refused_the_other_is_cancelled(client, backend):
    ended = []
    answer = backend.encode

    async def encode(decision, request, *rest):
        if request.role is Role.QUERY:
            return await answer(decision, request, *rest)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request.texts)

    backend.encode = encode
    backend.failing = Overloaded("full")
    async with asyncio.timeout(10):
        response = await send(client, RERANK, {"query": "a", "documents": ["b"]})
    assert (response.status_code, ended) == (429, [("b",)])


@pytest.mark.parametrize("path", [SIMILARITY, RERANK])
async def test_one_side_is_never_answered_by_another_member_of_the_space(client, backend, path):
    answer = backend.encode

    async def choose(facts, texts):
        return Decision("plain", "space", space="shared", failover=("instruct",))

    async def encode(decision, request, *rest):  # as the router: another member stands in
        for model in (decision.model, *decision.failover):
            if model == "instruct" or request.role is Role.QUERY:
                actual = await answer(replace(decision, model=model), request, *rest)
                return replace(actual, space=decision.space)
        raise ModelUnavailable("plain takes no more documents", "model")

    backend.choose, backend.encode = choose, encode
    response = await send(client, path, {"query": "a", "documents": ["b"]})
    check_refusal(response, 503, "model", "model_unavailable")


async def test_all_tries_share_one_deadline(client, backend):
    answer, sides = backend.encode, count()

    async def encode(*args):  # old and new replicas answer side by side
        return replace(await answer(*args), space=f"version {next(sides)}")

    backend.encode = encode
    response = await send(client, RERANK, {"query": "a", "documents": ["b"]})
    check_refusal(response, 503, "model", "model_unavailable", "replaced")
    assert len(backend.calls) > 2
    [deadline] = backend.deadlines
    assert 50 < deadline - time.monotonic() <= 60


REFUSED = [
    ("query", None, "a text"),
    ("query", "", "empty string"),
    ("query", 1, "a text"),
    ("documents", None, "a list of texts"),
    ("documents", [], "empty list"),
    ("documents", [""], "empty string"),
    ("documents", ["a", 1], "a list of texts"),
    ("documents", [["a"]], "a list of texts"),
    ("documents", [[1]], "a list of texts"),
    ("instruction", "Find", "takes no instruction"),
    ("model", "plain-query", 'must not end in "-query" here: both roles'),
    ("model", "small-document", 'must not end in "-document" here: both roles'),
    ("querys", "a", "did you mean `query`?"),
    ("document", "a", "did you mean `documents`?"),
]
REFUSED_RERANK = [
    ("query", ["a"], "a text"),
    ("documents", "a", "a list of texts"),
    ("documents", [{"txt": "a"}], "a list of texts"),
    ("documents", [{"text": ""}], "empty string"),
    ("top_n", 0, "greater than or equal to 1"),
    ("top_n", -1, "greater than or equal to 1"),
    ("top_n", 1.5, "whole number"),
    ("top_n", "1", "whole number"),
    ("return_documents", 1, "boolean"),
    ("topn", 1, "did you mean `top_n`?"),
]
REFUSED_SIMILARITY = [
    ("query", [], "empty list"),
    ("query", ["a", ""], "empty string"),
    ("documents", "", "empty string"),
    ("return_embeddings", "no", "boolean"),
    ("return_embedding", True, "did you mean `return_embeddings`?"),
]


@pytest.mark.parametrize(
    ("path", "field", "value", "advice"),
    [(path, *case) for path in (SIMILARITY, RERANK) for case in REFUSED]
    + [(RERANK, *case) for case in REFUSED_RERANK]
    + [(SIMILARITY, *case) for case in REFUSED_SIMILARITY],
)
async def test_refused_fields(client, backend, path, field, value, advice):
    body = {"query": "a", "documents": ["b"], field: value}
    check_refusal(await send(client, path, body), 400, field, "invalid_value", advice)


@pytest.mark.parametrize("path", [SIMILARITY, RERANK])
@pytest.mark.parametrize("missing", ["query", "documents"])
async def test_a_missing_field(client, path, missing):
    body = {"query": "a", "documents": ["b"]}
    del body[missing]
    check_refusal(await send(client, path, body), 400, missing, "invalid_value", "missing")


def test_the_instruct_model_tells_queries_from_documents():
    assert not np.allclose(cosines(INSTRUCT)[0][0], 1)
