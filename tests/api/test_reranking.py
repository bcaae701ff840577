"""`/v1/rerank` with a reranker in the fleet: which model scores, what the scores are, and two stages."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from deployments.core.errors import Overloaded
from deployments.core.models.spec import Truncation
from tests.api.calls import (
    EMBEDDINGS,
    RERANK,
    SIMILARITY,
    app_of,
    check_refusal,
    connect,
    ok,
    send,
)
from tests.api.fake_backend import JUDGE, SPECS, FakeBackend, logit_of

QUERY, DOCUMENTS = "a duck", ["a swan", "a goose", "a crow", "a hen"]
LOGITS = np.array([logit_of(QUERY, text) for text in DOCUMENTS])


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(specs={**SPECS, JUDGE.name: JUDGE})


@pytest.fixture
async def client(backend: FakeBackend) -> AsyncIterator[httpx.AsyncClient]:
    async with connect(app_of(backend)) as http:
        yield http


async def rerank(http, **fields):
    return ok(await send(http, RERANK, {"query": QUERY, "documents": DOCUMENTS, **fields}))


def scores_of(body):
    return {result["index"]: result["relevance_score"] for result in body["results"]}


@pytest.mark.parametrize("model", ["judge", "acme/judge", "auto", "small", None])
async def test_a_reranker_scores_by_name_size_or_choice(client, model):
    body = await rerank(client, model=model)
    assert (body["model"], body["method"], body["space"]) == ("judge", "cross-encoder", None)
    assert [result["index"] for result in body["results"]] == np.argsort(-LOGITS).tolist()
    for row, score in scores_of(body).items():
        assert score == pytest.approx(1 / (1 + math.exp(-LOGITS[row])), abs=1e-6)


async def test_raw_scores_are_logits(client):
    body = await rerank(client, raw_scores=True)
    assert scores_of(body) == pytest.approx(dict(enumerate(LOGITS)), abs=1e-6)


@pytest.mark.parametrize("fields", [{"model": "plain"}, {"model": "medium"}])
async def test_a_model_that_gives_vectors_scores_by_cosine(client, fields):
    body = await rerank(client, **fields)
    assert body["method"] == "cosine"
    assert body["space"] is not None


async def test_a_required_space_is_one_of_vectors(client):
    space = (await rerank(client, model="plain"))["space"]
    body = await rerank(client, model="auto", space=space)
    assert (body["method"], body["space"]) == ("cosine", space)


async def test_an_answer_by_a_reranker_has_no_space_header(client):
    response = await send(client, RERANK, {"query": QUERY, "documents": DOCUMENTS})
    assert response.headers["x-model"] == "judge"
    assert "x-embedding-space" not in response.headers


@pytest.mark.parametrize("path", [EMBEDDINGS, SIMILARITY])
async def test_a_reranker_asked_for_vectors_is_refused(client, path):
    body = {"model": "judge", "input": "a", "query": "a", "documents": ["b"]}
    response = await send(client, path, body)
    check_refusal(response, 400, "model", "wrong_model_kind", "plain", "instruct", "nested")


@pytest.mark.parametrize(
    "field", [{"raw_scores": True}, {"chunk": True}, {"prefilter": {"model": "plain"}}]
)
async def test_what_only_rerankers_do_is_refused_for_other_models(client, field):
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "plain", **field}
    response = await send(client, RERANK, body)
    check_refusal(response, 400, "model", "wrong_model_kind", "judge")


async def test_without_a_reranker_scores_are_cosines():
    async with connect(app_of(FakeBackend())) as http:
        assert (await rerank(http, model="auto"))["method"] == "cosine"
        body = {"query": QUERY, "documents": DOCUMENTS, "model": "auto", "raw_scores": True}
        check_refusal(await send(http, RERANK, body), 400, "model", "no_model_fits")


LONG = "far " * 40


@pytest.mark.parametrize(
    ("truncate", "truncation"),
    [
        (True, Truncation.LONGEST_FIRST),
        ("longest_first", Truncation.LONGEST_FIRST),
        ("only_second", Truncation.ONLY_SECOND),
    ],
)
async def test_long_documents_are_cut_as_asked(client, backend, truncate, truncation):
    body = await rerank(client, documents=[LONG, "b"], truncate=truncate)
    assert body["truncated"] == {"query": [], "documents": [0]}
    [(_, request, _)] = backend.calls
    assert request.truncate
    assert request.scoring.truncation is truncation


async def test_long_documents_are_refused_unless_they_may_be_cut_or_chunked(client, backend):
    body = {"query": QUERY, "documents": ["b", LONG]}
    response = await send(client, RERANK, body)
    check_refusal(response, 400, "documents", "context_length_exceeded")
    chunked = await rerank(client, documents=["b", LONG], chunk=True)
    assert chunked["truncated"] == {"query": [], "documents": []}
    assert backend.calls[-1][1].scoring.chunk


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chunk": True, "truncate": True}, "chunk"),
        ({"truncate": "first"}, "truncate"),
        ({"truncate": 1}, "truncate"),
        ({"prefilter": {"top": 0}}, "prefilter"),
        ({"prefilter": {"top": 5, "modle": "plain"}}, "prefilter"),
        ({"raw_score": True}, "raw_score"),
    ],
)
async def test_wrong_fields_are_refused_by_name(client, fields, param):
    body = {"query": QUERY, "documents": DOCUMENTS, **fields}
    check_refusal(await send(client, RERANK, body), 400, param, "invalid_value")


async def test_a_prefilter_leaves_the_reranker_the_best_by_cosine(client, backend):
    cosines = scores_of(await rerank(client, model="plain"))
    best = sorted(cosines, key=cosines.__getitem__)[-2:]
    backend.calls.clear()
    backend.deadlines.clear()
    body = await rerank(client, prefilter={"model": "plain", "top": 2}, return_documents=True)
    assert scores_of(body).keys() == set(best)
    for result in body["results"]:
        row = result["index"]
        assert result["relevance_score"] == pytest.approx(
            1 / (1 + math.exp(-LOGITS[row])), abs=1e-6
        )
        assert result["document"] == {"text": DOCUMENTS[row]}
    stage = {"model": "plain", "documents": 4, "kept": 2}
    assert stage.items() <= body["prefilter"].items()
    assert (body["model"], body["method"]) == ("judge", "cross-encoder")
    reranked = [request for model, request, _ in backend.calls if model == "judge"]
    assert [request.texts for request in reranked] == [tuple(DOCUMENTS[r] for r in sorted(best))]
    assert len(backend.deadlines) == 1, "both stages have the request's one deadline"


async def test_a_prefilter_that_keeps_all_changes_no_score(client):
    body = await rerank(client, prefilter={"top": 99})
    assert body["results"] == (await rerank(client))["results"]
    assert body["usage"]["total_tokens"] > (await rerank(client))["usage"]["total_tokens"]


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [("none", 404, "model_not_found"), ("judge", 400, "wrong_model_kind")],
)
async def test_a_prefilters_model_is_refused_under_its_own_name(client, model, status, code):
    body = {"query": QUERY, "documents": DOCUMENTS, "prefilter": {"model": model}}
    check_refusal(await send(client, RERANK, body), status, "prefilter.model", code)


async def test_an_instruction_is_refused_by_a_reranker_without_one(client):
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "judge", "instruction": "Judge"}
    check_refusal(await send(client, RERANK, body), 400, "instruction", "invalid_value")


async def test_models_are_listed_with_their_kind(client):
    kinds = {model["id"]: model["kind"] for model in ok(await client.get("/v1/models"))["data"]}
    assert kinds == {**dict.fromkeys(SPECS, "embedder"), "judge": "reranker"}


async def test_a_reranker_under_overload_is_a_429_and_never_a_cosine(client, backend):
    backend.failing = Overloaded("the lane is full", None, 2.0)
    response = await send(client, RERANK, {"query": QUERY, "documents": DOCUMENTS})
    check_refusal(response, 429, None, "overloaded")
    assert response.headers["retry-after"] == "2"
    assert [model for model, _, _ in backend.calls] == ["judge"]
