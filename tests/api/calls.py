"""How the tests call the API, and what every error must look like."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import uvicorn
from starlette.types import ASGIApp

from deployments.api.app import create_app
from deployments.api.auth import ApiKeys
from deployments.api.backend import Backend
from deployments.api.files import ApiBatches
from deployments.api.http import ApiLimits
from deployments.config.schema import AppArgs, Limits
from testing.running import free_port

EMBEDDINGS, SIMILARITY, RERANK = "/v1/embeddings", "/v1/similarity", "/v1/rerank"
ROUTE = "/v1/route"
JSON = {"content-type": "application/json"}


def app_of(
    backend: Backend,
    keys: ApiKeys | None = None,
    batches: ApiBatches | None = None,
    page: bool = True,
    **limits: Any,
) -> ASGIApp:
    """Returns the app over ``backend``, with the default limits except those given."""
    usual = replace(default_limits(), **limits)
    return create_app(backend, usual, keys or ApiKeys(), batches=batches, page=page)


def default_limits() -> ApiLimits:
    """Returns the limits of a config that sets none."""
    default = Limits()
    return ApiLimits(
        max_body_bytes=default.max_body_bytes,
        max_texts=default.max_texts,
        max_offline=default.max_requests // 2,
        truncate=AppArgs.model_fields["truncate"].default,
        request_timeout_s=default.request_timeout_s,
    )


def connect(app: ASGIApp) -> httpx.AsyncClient:
    """Returns a client that sees what a socket would show: a response, even after an exception."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Runs the app in a real server; yields its URL."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


async def send(http: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    """Posts bytes as they are, anything else as Python's own JSON (with NaN and surrogates)."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await http.post(path, content=content, headers=JSON)


async def embed(http: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Returns a successful response of ``/v1/embeddings``; ``input`` is "a text" unless given."""
    return ok(await send(http, EMBEDDINGS, {"input": "a text", **fields}))


def ok(response: httpx.Response) -> dict[str, Any]:
    """Returns the body of a 200."""
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Returns the error object of a refusal, after checking its shape."""
    assert response.status_code >= 400, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)
    return error


def check_refusal(
    response: httpx.Response, status: int, param: str | None, code: str, *words: str
) -> None:
    """Checks status, param and code of a refusal, and that its message contains each of ``words``."""
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (status, param, code), error
    for word in words:
        assert word in error["message"]
