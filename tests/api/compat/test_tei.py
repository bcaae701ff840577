"""The routes of text-embeddings-inference: its shapes and statuses, and our vectors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deployments.api.auth import ApiKeys
from deployments.core.errors import (
    DeadlineExceeded,
    EmbedfleetError,
    KillsReplicas,
    ModelUnavailable,
    Overloaded,
    SpaceMismatch,
    TextFailed,
)
from deployments.core.models.spec import Role
from deployments.core.request import EncodeRequest
from tests.api.calls import RERANK, app_of, check_refusal, connect, embed, error_of, ok, send
from tests.api.fake_backend import (
    INSTRUCT,
    JUDGE,
    NESTED,
    PLAIN,
    SPECS,
    SPLADE,
    FakeBackend,
    expected,
)

LONG = "far " * 40


def check_error(response, status, error_type, *words):
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "error_type"}
    assert body["error_type"] == error_type
    for word in words:
        assert word in body["error"]


@pytest.mark.parametrize("path", ["/embed", "/", "/embed/"])
@pytest.mark.parametrize("inputs", ["a", ["a", "b c"]])
async def test_vectors_are_those_of_our_own_route(client, path, inputs):
    vectors = ok(await send(client, path, {"inputs": inputs}))
    assert vectors == [item["embedding"] for item in (await embed(client, input=inputs))["data"]]


@pytest.mark.parametrize(
    ("name", "role"), [("query", Role.QUERY), ("passage", Role.DOCUMENT), (None, Role.DOCUMENT)]
)
async def test_a_prompt_name_is_a_role(client, name, role):
    body = {"inputs": "a", "prompt_name": name}
    assert ok(await send(client, "/embed", body)) == pytest.approx(
        expected(PLAIN, EncodeRequest(("a",), role)), abs=1e-6
    )


async def test_vectors_are_normalised_unless_told_otherwise(client):
    body = {"inputs": "a", "model": "nested"}  # whose own vectors are not normalised
    [vector] = ok(await send(client, "/embed", body))
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    [raw] = ok(await send(client, "/embed", {**body, "normalize": False}))
    assert raw == pytest.approx(expected(NESTED, EncodeRequest(("a",)))[0], abs=1e-6)


async def test_dimensions(client):
    body = {"inputs": ["a", "b"], "model": "nested", "dimensions": 2}
    assert np.shape(ok(await send(client, "/embed", body))) == (2, 2)
    response = await send(client, "/embed", {"inputs": "a", "dimensions": 3})
    check_error(response, 422, "Validation", "dimensions")


async def test_long_texts_are_cut_only_if_that_is_asked_for(client):
    body = {"inputs": ["a", LONG], "truncation_direction": "Right"}
    check_error(await send(client, "/embed", body), 422, "Validation")
    response = await send(client, "/embed", {**body, "truncate": True})
    assert len(ok(response)) == 2
    assert response.headers["x-truncated-texts"] == "1"
    assert "x-truncated-texts" not in (await send(client, "/embed", {"inputs": "a"})).headers


async def test_a_required_space_holds_here_too(client):
    response = await client.post(
        "/embed", json={"inputs": "a"}, headers={"x-require-space": "0123456789ab"}
    )
    check_error(response, 409, "Validation")


async def test_answers_have_our_own_headers(client):
    response = await send(client, "/embed", {"inputs": "a"})
    assert response.headers["x-model"] == "plain"
    assert response.headers["x-embedding-space"] == (await embed(client))["space"]


async def test_many_vectors_are_written_in_parts(backend):
    texts = [f"text {i}" for i in range(10_000)]
    async with connect(app_of(backend, max_texts=len(texts))) as http:
        vectors = ok(await send(http, "/embed", {"inputs": texts}))
        some = ok(await send(http, "/embed", {"inputs": texts[::999]}))
    assert np.shape(vectors) == (10_000, 8)
    assert vectors[::999] == some


async def test_similarity_is_the_cosine_of_vectors_in_one_role(client):
    inputs = {"source_sentence": "a", "sentences": ["b", "c d", "a"]}
    body = {"inputs": inputs, "parameters": {"prompt_name": "query"}}
    first, *others = ok(
        await send(client, "/embed", {"inputs": ["a", "b", "c d", "a"], "prompt_name": "query"})
    )
    cosines = ok(await send(client, "/similarity", body))
    assert cosines == pytest.approx([np.dot(first, other) for other in others], abs=1e-6)
    as_documents = ok(await send(client, "/similarity", {"inputs": inputs}))
    assert as_documents != pytest.approx(cosines, abs=1e-3)


@pytest.fixture
async def reranking():
    async with connect(app_of(FakeBackend(specs={**SPECS, JUDGE.name: JUDGE}))) as http:
        yield http


@pytest.mark.parametrize("raw", [False, True])
async def test_rerank(reranking, raw):
    texts = ["a swan", "a goose", "a crow"]
    ranks = ok(await send(reranking, "/rerank", {"query": "a", "texts": texts, "raw_scores": raw}))
    body = {"query": "a", "documents": texts, "raw_scores": raw}
    ours = ok(await send(reranking, RERANK, body))["results"]
    assert ranks == [{"index": r["index"], "score": r["relevance_score"]} for r in ours]


async def test_rerank_returns_texts(reranking):
    body = {"query": "a", "texts": ["b", "c"], "return_text": True}
    for rank in ok(await send(reranking, "/rerank", body)):
        assert rank["text"] == ["b", "c"][rank["index"]]


async def test_documents_on_the_same_path_are_answered_as_on_our_own_route(reranking):
    # as Jina's, Infinity's and vLLM's clients send them
    body = {"query": "a", "documents": ['b ,"texts": 1', "c"], "top_n": 1, "return_documents": True}
    ours = await send(reranking, RERANK, body)
    assert ok(await send(reranking, "/rerank", body)) == ok(ours)
    refused = await send(reranking, "/rerank", {**body, "model": "none"})
    check_refusal(refused, 404, "model", "model_not_found")
    refused = await send(reranking, "/rerank", {**body, "top_n": 0})
    check_refusal(refused, 400, "top_n", "invalid_value")


async def test_texts_that_name_documents_are_texts(reranking):
    body = {"query": 'which "documents":', "texts": ['b {"documents": 1}', "c"]}
    assert len(ok(await send(reranking, "/rerank", body))) == 2


async def test_texts_and_documents_together_are_refused(reranking):
    body = {"query": "a", "texts": ["b"], "documents": ["c"]}
    check_error(await send(reranking, "/rerank", body), 422, "Validation", "`documents`")


async def test_info_describes_the_default_model(client):
    info = ok(await client.get("/info"))
    assert info["model_id"] == "acme/plain"
    assert info["served_model_name"] == "plain"
    assert info["max_input_length"] == PLAIN.max_tokens
    assert info["model_type"] == {"embedding": {}}
    assert info["auto_truncate"] is False


async def test_there_is_no_info_where_each_request_has_its_own_model():
    class Auto(FakeBackend):
        async def explain(self, facts, texts):
            explanation = await super().explain(facts, texts)
            decision = replace(explanation.decision, reason="auto: fast")
            return replace(explanation, decision=decision)

    async with connect(app_of(Auto())) as http:
        check_error(await http.get("/info"), 422, "Validation", "`default_model`")


@pytest.mark.parametrize(("spec", "kind"), [(JUDGE, "reranker"), (SPLADE, "embedding")])
async def test_info_of_a_service_without_an_embedder(spec, kind):
    async with connect(app_of(FakeBackend(specs={spec.name: spec}))) as http:
        info = ok(await http.get("/info"))
    assert (info["served_model_name"], info["model_type"]) == (spec.name, {kind: {}})


@pytest.mark.parametrize("path", ["/embed_all", "/predict", "/tokenize", "/decode"])
async def test_routes_that_are_not_served_say_so(client, path):
    check_error(await send(client, path, {"inputs": "a"}), 424, "Backend", "not served")


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (Overloaded("full", None, 2.0), 429, "Overloaded"),
        (ModelUnavailable("starting", "model", 5.0), 503, "Unhealthy"),
        (TextFailed("no vector"), 424, "Backend"),
        (KillsReplicas("deadly", "input"), 424, "Backend"),
        (DeadlineExceeded("late"), 504, "Backend"),
        (SpaceMismatch("moved", "space"), 409, "Validation"),
        (EmbedfleetError("why"), 500, "Backend"),
        (KeyError("secret"), 500, "Backend"),
    ],
)
async def test_errors_have_its_statuses_and_its_shape(client, backend, error, status, error_type):
    backend.failing = error
    response = await send(client, "/embed", {"inputs": "a"})
    check_error(response, status, error_type)
    assert "secret" not in response.text
    assert response.headers.get("retry-after") == (
        str(int(seconds)) if (seconds := getattr(error, "retry_after_s", None)) else None
    )


async def test_errors_name_its_own_fields(client, backend):
    backend.failing = KillsReplicas("`input` is deadly", "input")
    check_error(await send(client, "/embed", {"inputs": "a"}), 424, "Backend", "`inputs` is")
    body = {"inputs": "a", "model": "plain-query", "prompt_name": "document"}
    check_error(await send(client, "/embed", body), 422, "Validation", "`prompt_name` is")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": []}),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}),
        ("/rerank", {"query": "a", "texts": []}),
    ],
)
async def test_an_empty_batch(client, path, body):
    check_error(await send(client, path, body), 400, "Empty")


async def test_a_batch_or_a_body_that_is_too_large(backend):
    async with connect(app_of(backend, max_texts=2, max_body_bytes=99)) as http:
        assert len(ok(await send(http, "/embed", {"inputs": ["a"] * 2}))) == 2
        check_error(await send(http, "/embed", {"inputs": ["a"] * 3}), 413, "Validation", "3 texts")
        check_error(await send(http, "/embed", {"inputs": "a" * 99}), 413, "Validation", "99 bytes")
        body = {"query": "a", "texts": ["a"] * 3}
        check_error(await send(http, "/rerank", body), 413, "Validation", "3 texts")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/embed", {}, "inputs"),
        ("/embed", {"inputs": ""}, "inputs"),
        ("/embed", {"inputs": [[1, 2]]}, "inputs[0]"),
        ("/embed", {"inputs": ["a", ""]}, "inputs[1]"),
        ("/embed", [], None),
        ("/embed", {"inputs": "a", "normalise": True}, "normalise"),
        ("/similarity", {"inputs": {"sentences": ["a"]}}, "inputs.source_sentence"),
        ("/similarity", {"inputs": "a"}, "inputs"),
        ("/rerank", {"texts": ["a"]}, "query"),
        ("/rerank", {"query": "a"}, "texts"),
    ],
)
async def test_wrong_fields_are_named(client, path, body, field):
    words = [f"`{field}`"] if field else []
    check_error(await send(client, path, body), 422, "Validation", *words)


async def test_bytes_that_are_not_json(client):
    check_error(await send(client, "/embed", b"{"), 422, "Validation", "JSON")
    response = await client.post("/embed", content=b"{}")
    check_error(response, 415, "Validation", "content-type")


async def test_an_unknown_model_and_a_wrong_key(backend):
    async with connect(app_of(backend, ApiKeys(["secret"]))) as http:
        check_error(await send(http, "/embed", {"inputs": "a"}), 401, "Validation")
        http.headers["authorization"] = "Bearer secret"
        response = await send(http, "/embed", {"inputs": "a", "model": "none"})
        check_error(response, 404, "Validation", "none")
        assert error_of(await send(http, "/v1/embeddings", {}))["param"] == "input"


async def test_an_instruct_model_uses_its_own_instruction(client):
    body = {"inputs": "a", "model": "instruct", "prompt_name": "query"}
    [vector] = ok(await send(client, "/embed", body))
    assert vector == pytest.approx(
        expected(INSTRUCT, EncodeRequest(("a",), Role.QUERY))[0], abs=1e-6
    )
