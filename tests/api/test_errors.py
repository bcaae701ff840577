"""Errors of routes and of the backend: all have one shape and reveal nothing internal."""

from __future__ import annotations

import threading

import pytest

from deployments.api import http
from deployments.api.responses import error_body
from deployments.core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    DeadlineExceeded,
    EmbedfleetError,
    ModelUnavailable,
    Overloaded,
    SpaceMismatch,
    UnsupportedModel,
)
from tests.api.calls import EMBEDDINGS, RERANK, SIMILARITY, check_refusal, send

CALLS = [
    (EMBEDDINGS, {"input": "a"}),
    (SIMILARITY, {"query": "a", "documents": ["b"]}),
    (RERANK, {"query": "a", "documents": ["b"]}),
]
FAILURES = [
    (EmbedfleetError("the engine failed"), 500, "internal_error"),
    (UnsupportedModel("not ours", "model"), 400, "unsupported_model"),
    (SpaceMismatch("another space", "space"), 409, "embedding_space_mismatch"),
    (BodyTooLarge("too large"), 413, "body_too_large"),
    (BodyTooSlow("too slow"), 408, "body_timeout"),
    (Overloaded("queues are full, retry", None, 0.25), 429, "overloaded"),
    (ModelUnavailable("its GPU is missing", "model", 5.0), 503, "model_unavailable"),
    (DeadlineExceeded("took too long"), 504, "deadline_exceeded"),
]


@pytest.mark.parametrize(("path", "body"), CALLS)
@pytest.mark.parametrize(("error", "status", "code"), FAILURES, ids=str)
async def test_an_error_of_the_backend_is_the_answer(
    client, backend, path, body, error, status, code
):
    backend.failing = error
    check_refusal(await send(client, path, body), status, error.param, code, error.message)


@pytest.mark.parametrize(
    ("seconds", "header", "milliseconds"),
    [
        (0.25, "1", "250"),
        (1.0, "1", "1000"),
        (1.2, "2", "1200"),
        (0.0, "1", "1"),
        (0.0001, "1", "1"),
        (90.5, "91", "90500"),
        (None, None, None),
    ],
)
@pytest.mark.parametrize("kind", [Overloaded, ModelUnavailable])
async def test_retry_after(client, backend, kind, seconds, header, milliseconds):
    backend.failing = kind("retry", None, seconds)
    response = await send(client, *CALLS[0])
    assert response.headers.get("retry-after") == header
    assert response.headers.get("retry-after-ms") == milliseconds


@pytest.mark.parametrize(("path", "body"), CALLS)
@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, MemoryError, TimeoutError])
async def test_an_unexpected_exception_reveals_nothing(client, backend, path, body, kind):
    backend.failing = kind("host 10.1.2.3 said: a text")
    response = await send(client, path, body)
    check_refusal(response, 500, None, "internal_error", "request id")
    assert "10.1.2.3" not in response.text
    assert kind.__name__ not in response.text


@pytest.mark.parametrize("path", ["/v1", "/v1/embeddings/1", "/v2/fine_tuning"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_an_unknown_route(client, path, method):
    response = await client.request(method, path)
    check_refusal(response, 404, None, "not_found", "/openapi.json")


@pytest.mark.parametrize(
    ("path", "ours"),
    [
        ("/v1/embed_all", "/v1/embeddings"),
        ("/v1/v1/embeddings", "/v1/embeddings"),
        ("/v1/embedding", "/v1/embeddings"),
        ("/api/v1/embed", "/v1/embeddings"),
        ("/openai/deployments/ada/embeddings", "/v1/embeddings"),
        ("/v1/predictions", "/v1/embeddings"),
        ("/v1/reranking", "/v1/rerank"),
        ("/v3/rerank", "/v1/rerank"),
        ("/v2/score", "/v1/similarity"),
        ("/v1/info/", "/v1/models"),
        ("/v1/tags", "/v1/models"),
    ],
)
async def test_a_route_of_another_server(client, path, ours):
    check_refusal(await client.post(path), 404, None, "not_found", ours)


@pytest.mark.parametrize("name", ["%00", "none.js", "..%2f__init__.py", "a" * 9999])
async def test_an_odd_path_below_the_assets(client, name):
    check_refusal(await client.get(f"/docs/assets/{name}"), 404, None, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", EMBEDDINGS, {"POST"}),
        ("PUT", EMBEDDINGS, {"POST"}),
        ("GET", SIMILARITY, {"POST"}),
        ("DELETE", RERANK, {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("POST", "/health", {"GET", "HEAD"}),
        ("ODD", "/openapi.json", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method(client, method, path, allowed):
    response = await client.request(method, path)
    check_refusal(response, 405, None, "method_not_allowed", "/openapi.json")
    assert set(response.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    ("path", "failing", "status"),
    [
        (EMBEDDINGS, Overloaded("full"), 429),
        (EMBEDDINGS, KeyError("a"), 500),
        ("/v1/nowhere", None, 404),
    ],
)
async def test_errors_are_answered_on_the_event_loop(
    client, backend, monkeypatch, path, failing, status
):
    threads = []

    def watched(error):
        threads.append(threading.current_thread())
        return error_body(error)

    monkeypatch.setattr(http, "error_body", watched)
    backend.failing = failing
    assert (await send(client, path, {"input": "a"})).status_code == status
    assert threads == [threading.current_thread()]
