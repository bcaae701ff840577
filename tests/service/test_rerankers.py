"""A reranker over HTTP, against sentence-transformers' CrossEncoder, beside models that give vectors."""

from __future__ import annotations

import cohere
import numpy as np
import pytest
import torch
from langchain_cohere import CohereRerank
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from pydantic import SecretStr
from sentence_transformers import CrossEncoder

from testing.docstrings import docstrings
from testing.running import API_KEY, RunningService
from tests.service.conftest import REAL, RERANKER

QUERY = "how does a parser read its input"
DOCUMENTS = [*docstrings(20, longest_words=80), "x", "日本語 text"]


@pytest.fixture(scope="module")
def stock(models_folder) -> CrossEncoder:
    return CrossEncoder(str(models_folder / RERANKER), device="cpu", local_files_only=True)


def rerank(service: RunningService, **fields):
    with service.client() as http:
        return http.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS, **fields})


def scores_of(answer):
    results = answer.raise_for_status().json()["results"]
    return np.array([r["relevance_score"] for r in sorted(results, key=lambda r: r["index"])])


def expected(stock, documents=DOCUMENTS, **options):
    return np.array([stock.predict([(QUERY, text)], **options)[0] for text in documents])


def test_scores_are_those_of_sentence_transformers(service, stock):
    answer = rerank(service, model=RERANKER, truncate=True)
    np.testing.assert_allclose(scores_of(answer), expected(stock), atol=1e-5)
    raw = rerank(service, model=RERANKER, truncate=True, raw_scores=True)
    logits = expected(stock, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(scores_of(raw), logits, atol=1e-5)
    assert logits.std() > 0.01
    assert answer.json()["method"] == "cross-encoder"


def test_many_pairs_share_calls_and_keep_their_places(service, stock):
    documents = [*DOCUMENTS, *DOCUMENTS[::-1]] * 6
    many = scores_of(rerank(service, model=RERANKER, documents=documents, truncate=True))
    one = expected(stock)
    np.testing.assert_allclose(many, np.tile([*one, *one[::-1]], 6), atol=1e-5)


def test_a_long_document_is_refused_or_scored_by_its_best_chunk(service):
    long = " ".join(DOCUMENTS)
    refused = rerank(service, model=RERANKER, documents=["short", long])
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "documents")
    chunked = scores_of(rerank(service, model=RERANKER, documents=["short", long], chunk=True))
    cut = scores_of(rerank(service, model=RERANKER, documents=["short", long], truncate=True))
    assert chunked[0] == pytest.approx(cut[0], abs=1e-5)
    assert chunked[1] >= cut[1] - 1e-5, "the first chunk is the document cut"


def test_auto_takes_the_reranker_and_a_prefilter_the_vectors(service):
    answer = rerank(service, model="auto", truncate=True, prefilter={"model": REAL, "top": 5})
    body = answer.raise_for_status().json()
    assert (body["model"], body["method"]) == (RERANKER, "cross-encoder")
    assert body["prefilter"]["kept"] == len(body["results"]) == 5
    cosines = scores_of(rerank(service, model=REAL, truncate=True))
    assert {r["index"] for r in body["results"]} == set(np.argsort(-cosines)[:5].tolist())


def test_each_kind_is_shown_and_refuses_what_the_other_does(service):
    with service.client() as http:
        kinds = {m["id"]: m["kind"] for m in http.get("/v1/models").json()["data"]}
        item = http.get(f"/v1/models/{RERANKER}").json()
        refused = http.post("/v1/embeddings", json={"model": RERANKER, "input": "a"})
    assert kinds[RERANKER] == "reranker"
    assert kinds[REAL] == "embedder"
    assert (item["network"], item["space_id"], item["dimension"]) == ("fast", None, None)
    assert item["compared_with"].startswith("sentence-transformers")
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("wrong_model_kind", "model")
    assert REAL in error["message"]


def test_cohere(service):
    client = cohere.ClientV2(API_KEY, base_url=service.url)
    answer = client.rerank(model=RERANKER, query=QUERY, documents=DOCUMENTS[:4], top_n=3)
    expected = scores_of(rerank(service, model=RERANKER, documents=DOCUMENTS[:4]))
    assert [result.index for result in answer.results] == np.argsort(-expected)[:3].tolist()
    first = answer.results[0]
    assert first.relevance_score == pytest.approx(expected[first.index], abs=1e-5)


def test_langchain(service):
    reranker = CohereRerank(
        model=RERANKER, base_url=service.url, cohere_api_key=SecretStr(API_KEY), top_n=2
    )
    documents = [Document(page_content=text) for text in DOCUMENTS[:4]]
    kept = reranker.compress_documents(documents, QUERY)
    expected = scores_of(rerank(service, model=RERANKER, documents=DOCUMENTS[:4]))
    best = np.argsort(-expected)[:2]
    assert [document.page_content for document in kept] == [DOCUMENTS[row] for row in best]
    assert kept[0].metadata["relevance_score"] == pytest.approx(expected[best[0]], abs=1e-5)


def test_llama_index(service):
    reranker = JinaRerank(top_n=2, model=RERANKER, base_url=f"{service.url}/v1", api_key=API_KEY)
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in DOCUMENTS[:4]]
    kept = reranker.postprocess_nodes(nodes, query_str=QUERY)
    expected = scores_of(rerank(service, model=RERANKER, documents=DOCUMENTS[:4]))
    assert [node.text for node in kept] == [DOCUMENTS[row] for row in np.argsort(-expected)[:2]]
