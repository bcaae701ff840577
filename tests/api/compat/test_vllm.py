"""vLLM's scores."""

from __future__ import annotations

import pytest

from tests.api.calls import RERANK, app_of, check_refusal, connect, ok, send
from tests.api.fake_backend import JUDGE, SPECS, FakeBackend

TEXTS = ["a swan", "a goose", "a crow"]


@pytest.fixture
async def reranking():
    async with connect(app_of(FakeBackend(specs={**SPECS, JUDGE.name: JUDGE}))) as http:
        yield http


async def ours(http, query, **fields):
    body = ok(await send(http, RERANK, {"query": query, "documents": TEXTS, **fields}))
    scores = {result["index"]: result["relevance_score"] for result in body["results"]}
    return [scores[index] for index in range(len(TEXTS))], body["usage"]


def scores_of(answer):
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    return [item["score"] for item in answer["data"]]


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("model", ["judge", "plain", None])
@pytest.mark.parametrize("query", ["a duck", ["a duck"]])
async def test_one_text_with_many(reranking, path, model, query):
    body = {"text_1": query, "text_2": TEXTS, "model": model}
    answer = ok(await send(reranking, path, body))
    scores, usage = await ours(reranking, "a duck", model=model)
    assert scores_of(answer) == pytest.approx(scores, abs=1e-6)
    assert answer["usage"] == usage
    assert answer["model"] == (model or "judge")


@pytest.mark.parametrize("model", ["judge", "plain", "small"])
async def test_texts_pair_by_pair(reranking, model):
    queries = ["a duck", "a hen", "a tit"]
    answer = ok(
        await send(reranking, "/score", {"text_1": queries, "text_2": TEXTS, "model": model})
    )
    expected = [
        (await ours(reranking, query, model=model))[0][i] for i, query in enumerate(queries)
    ]
    assert scores_of(answer) == pytest.approx(expected, abs=1e-6)


async def test_one_model_scores_all_pairs():
    class Recording(FakeBackend):
        async def choose(self, facts, texts):
            requested.append(facts.requested)
            return await super().choose(facts, texts)

    requested: list[str | None] = []
    async with connect(app_of(Recording(specs={**SPECS, JUDGE.name: JUDGE}))) as http:
        ok(await send(http, "/score", {"text_1": TEXTS, "text_2": TEXTS}))
    assert requested == [None, "judge", "judge"]


async def test_without_activation_scores_are_logits(reranking):
    body = {"text_1": "a duck", "text_2": TEXTS, "use_activation": False}
    logits, _ = await ours(reranking, "a duck", raw_scores=True)
    assert scores_of(ok(await send(reranking, "/score", body))) == pytest.approx(logits, abs=1e-6)
    refused = await send(reranking, "/score", {**body, "model": "plain"})
    check_refusal(refused, 400, "model", "wrong_model_kind")


async def test_lists_of_different_lengths_are_refused(reranking):
    body = {"text_1": ["a", "b"], "text_2": TEXTS}
    check_refusal(await send(reranking, "/score", body), 400, "text_1", "invalid_value")


async def test_errors_name_its_own_fields(reranking):
    body = {"text_1": "a", "text_2": ["b", "far " * 40]}
    check_refusal(await send(reranking, "/score", body), 400, "text_2", "context_length_exceeded")
    for model in ("judge", "plain"):
        cut = {**body, "truncate": True, "model": model}
        response = await send(reranking, "/score", cut)
        assert len(ok(response)["data"]) == 2
        assert response.headers["x-truncated-texts"] == "1"
