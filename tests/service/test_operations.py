"""What operators look at."""

from __future__ import annotations

import os

import httpx

from testing.processes import descendants
from testing.waiting import until


def test_health_and_ready_need_no_key(service):
    assert httpx.get(f"{service.url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{service.url}/ready").json()["status"] == "ready"
    assert httpx.get(f"{service.url}/v1/models").status_code == 401


def test_openapi_and_docs(service):
    with service.client() as http:
        paths = http.get("/openapi.json").json()["paths"]
        assert "/v1/embeddings" in paths
        assert "swagger-ui" in http.get("/docs").text
        assert http.get("/docs/swagger-ui.css").status_code == 200


def test_headers_say_who_answered_and_why(service):
    with service.client() as http:
        body = {"model": "small", "input": "x"}
        answer = http.post("/v1/embeddings", json=body, headers={"x-request-id": "mine-42"})
        card = http.get("/v1/models").json()["data"][0]
    assert answer.headers["x-model"] == card["id"] == answer.json()["model"]
    assert answer.headers["x-embedding-space"] == card["space_id"] == answer.json()["space"]
    assert answer.headers["x-route-reason"] == "size"
    assert answer.headers["x-request-id"] == "mine-42"
    assert float(answer.headers["x-computed-ms"]) > 0


def test_metrics_reach_prometheus(service):
    with service.client() as http:
        http.post("/v1/embeddings", json={"model": "hashed", "input": "counted"})
        # Ray gathers metrics every ten seconds or so
        until(lambda: service.metric("embedfleet_tokens_total"), 45)
        text = http.get("/metrics").text
    assert 'model="hashed"' in text
    assert "# TYPE embedfleet_forward_seconds histogram" in text
    assert "embedfleet_requests_total{" in text


def test_a_large_body_is_refused_in_one_piece(service):
    with service.client() as http:
        body = b'{"input": "' + b"x" * 10_000_000 + b'"}'
        json_type = {"content-type": "application/json"}
        answer = http.post("/v1/embeddings", content=body, headers=json_type)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"
        assert http.get("/health").status_code == 200


def test_as_many_passes_at_once_as_threads(service):
    with service.client() as http:
        streams = {card["id"]: card["streams"] for card in http.get("/v1/models").json()["data"]}
    assert streams["all-MiniLM-L6-v2"] == 2
    assert streams["broken"] is None


def test_the_service_stays_in_the_session_of_whoever_starts_it(service):
    """Linux weighs sessions as a whole: its neighbours would stall a service in one of its own."""
    below = descendants(service.process.pid)
    assert any("ServeReplica" in line for line in below.values())
    assert {os.getsid(pid) for pid in below} == {os.getsid(0)}


def test_similarity_ranks_the_right_document_first(service):
    body = {
        "model": "all-MiniLM-L6-v2",
        "query": "How do plants make food?",
        "documents": ["The stock market fell.", "Photosynthesis turns light into sugar."],
    }
    with service.client() as http:
        scores = http.post("/v1/similarity", json=body).json()["scores"][0]
        results = http.post("/v1/rerank", json=body).json()["results"]
    assert scores[1] > scores[0] + 0.2
    assert [r["index"] for r in results] == [1, 0]
