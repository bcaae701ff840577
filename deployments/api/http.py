"""What every route shares: bodies within a limit, error answers, response headers."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.limits import ApiLimits
from deployments.api.responses import error_body
from deployments.core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    EmbedfleetError,
    InvalidRequest,
    Unauthorized,
    UnsupportedEncoding,
)
from deployments.core.request import Embeddings
from deployments.core.routing.policy import Decision

JSON = "application/json"
REQUIRE_SPACE = "x-require-space"
_DRAINED_BYTES = 64_000_000
# routes of text-embeddings-inference, Infinity, vLLM and Cohere
_ELSEWHERE = {
    "/embed": "POST /v1/embeddings",
    "/embeddings": "POST /v1/embeddings",
    "/v1/embed": "POST /v1/embeddings",
    "/v2/embed": "POST /v1/embeddings",
    "/rerank": "POST /v1/rerank",
    "/v2/rerank": "POST /v1/rerank",
    "/similarity": "POST /v1/similarity",
    "/score": "POST /v1/similarity",
    "/v1/score": "POST /v1/similarity",
    "/models": "GET /v1/models",
    "/info": "GET /v1/models",
}


class NotFound(InvalidRequest):
    """No such route."""

    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    """The route exists, with another method."""

    status = 405
    code = "method_not_allowed"


async def read_body(request: Request, limits: ApiLimits, deadline: float) -> bytes:
    """Returns the body. Raises UnsupportedEncoding, BodyTooLarge, and BodyTooSlow where it does not
    arrive in time.
    """
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise UnsupportedEncoding(f"the body is compressed ({encoding}); send it as it is")
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await _read(request, limits.max_body_bytes)
    except TimeoutError:
        raise BodyTooSlow(
            f"the body had not arrived after {limits.request_timeout_s:g} s; send fewer texts a "
            "request, or raise `limits.request_timeout_s` in the config"
        ) from None


async def _read(request: Request, limit: int) -> bytes:
    # what is over the limit is read on and thrown away: a client that still sends would see a
    # broken connection in place of the answer
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > max(limit, _DRAINED_BYTES):
            break
    if size > limit:
        raise BodyTooLarge(
            f"the body is over {limit} bytes; send fewer texts a request, or raise "
            "`limits.max_body_bytes` in the config"
        )
    return b"".join(chunks)


def answer(body: bytes, found: Embeddings, decision: Decision) -> Response:
    """Returns a 200 with the headers that say who answered, why, and how long it took.

    ``x-request-id`` is Serve's: it takes the caller's, or makes one, and writes it to its log too.
    """
    headers = {
        "x-model": _ascii(found.model),
        "x-embedding-space": found.space,
        "x-route-reason": _ascii(decision.reason),
        "x-queued-ms": f"{found.queued_s * 1000:.1f}",
        "x-computed-ms": f"{found.computed_s * 1000:.1f}",
    }
    return Response(body, headers=headers, media_type=JSON)


def error_response(request: Request, error: Exception) -> Response:
    """Returns the one shape that every error has."""
    known = error if isinstance(error, EmbedfleetError) else _as_known(request, error)
    headers = dict((error.headers or {}) if isinstance(error, HTTPException) else {})
    if known.retry_after_s is not None:
        # whole seconds as the standard says, and milliseconds as OpenAI's clients read them
        headers["retry-after"] = str(max(1, math.ceil(known.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, round(known.retry_after_s * 1000)))
    if isinstance(known, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(known, BodyTooSlow):
        headers["connection"] = "close"  # else the rest of the body keeps it
    return Response(error_body(known), known.status, headers, JSON)


def _as_known(request: Request, error: Exception) -> EmbedfleetError:
    if not isinstance(error, HTTPException):
        return EmbedfleetError("an internal error; the service's log has it under the request id")
    kinds: dict[int, type[InvalidRequest]] = {404: NotFound, 405: MethodNotAllowed}
    kind = kinds.get(error.status_code, InvalidRequest)
    if ours := _ELSEWHERE.get(request.url.path.rstrip("/")) if error.status_code == 404 else None:
        return kind(f"{error.detail}; here it is {ours}")
    return kind(f"{error.detail}; GET /openapi.json lists the routes")


def _ascii(value: Any) -> str:
    return str(value).encode("ascii", "backslashreplace").decode()
