"""What all routes share: limits, reading a body, response headers, and error responses."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

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
_MAX_DISCARDED_BYTES = 64_000_000
# routes of text-embeddings-inference, Infinity, vLLM and Cohere
_FOREIGN_ROUTES = {
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


@dataclass(frozen=True, kw_only=True)
class ApiLimits:
    """The limits of a request, and whether texts that are too long are cut by default.

    At most ``max_offline`` requests of low priority are in progress at once, which leaves room for
    others. ``request_timeout_s`` is the time of a request, from its first byte to its answer.
    """

    max_body_bytes: int
    max_texts: int
    max_offline: int
    truncate: bool
    request_timeout_s: float

    def deadline(self) -> float:
        """Returns when a request that arrives now must be answered, by `time.monotonic`."""
        return time.monotonic() + self.request_timeout_s

    def check_count(self, texts: int, field: str) -> None:
        """Raises InvalidRequest if a request holds too many texts."""
        if texts > self.max_texts:
            raise InvalidRequest(
                f"`{field}` holds {texts} texts, but a request may hold at most {self.max_texts}; "
                "send several requests",
                field,
            )


async def read_body(request: Request, limits: ApiLimits, deadline: float) -> bytes:
    """Returns the body.

    Raises UnsupportedEncoding, BodyTooLarge, or BodyTooSlow if it does not arrive before the deadline.
    """
    if (encoding := request.headers.get("content-encoding", "identity")) != "identity":
        raise UnsupportedEncoding(f"the body is compressed ({encoding}); send it uncompressed")
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await _read(request, limits.max_body_bytes)
    except TimeoutError:
        raise BodyTooSlow(
            f"the body had not arrived after {limits.request_timeout_s:g} s; send fewer texts per "
            "request, or raise `limits.request_timeout_s` in the config"
        ) from None


async def _read(request: Request, limit: int) -> bytes:
    # a body over the limit is read on and discarded: a client that is still sending would see a
    # broken connection instead of the answer
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > max(limit, _MAX_DISCARDED_BYTES):
            break
    if size > limit:
        raise BodyTooLarge(
            f"the body is over {limit} bytes; send fewer texts per request, or raise "
            "`limits.max_body_bytes` in the config"
        )
    return b"".join(chunks)


def embedding_response(body: bytes, embeddings: Embeddings, decision: Decision) -> Response:
    """Returns a 200 with the headers that say which model answered, why, and how long it took.

    ``x-request-id`` is added by Serve: the caller's own, or a new one, which is also in Serve's log.
    """
    headers = {
        "x-model": _ascii(embeddings.model),
        "x-embedding-space": embeddings.space,
        "x-route-reason": _ascii(decision.reason),
        "x-queued-ms": f"{embeddings.queued_s * 1000:.1f}",
        "x-computed-ms": f"{embeddings.computed_s * 1000:.1f}",
    }
    return Response(body, headers=headers, media_type=JSON)


async def handle_error(request: Request, error: Exception) -> Response:
    """Answers an exception of a route; Starlette runs plain functions in a thread pool."""
    return error_response(request, error)


def error_response(request: Request, error: Exception) -> Response:
    """Returns the response to an error; all errors have the same shape."""
    known = error if isinstance(error, EmbedfleetError) else _as_known(request, error)
    headers = dict((error.headers or {}) if isinstance(error, HTTPException) else {})
    if known.retry_after_s is not None:
        # whole seconds for the standard, milliseconds for OpenAI's clients
        headers["retry-after"] = str(max(1, math.ceil(known.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, round(known.retry_after_s * 1000)))
    if isinstance(known, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(known, BodyTooSlow):
        headers["connection"] = "close"  # else the unread rest of the body would keep it open
    return Response(error_body(known), known.status, headers, JSON)


def _as_known(request: Request, error: Exception) -> EmbedfleetError:
    if not isinstance(error, HTTPException):
        return EmbedfleetError("internal error; the service's log has it under the request id")
    kinds: dict[int, type[InvalidRequest]] = {404: NotFound, 405: MethodNotAllowed}
    kind = kinds.get(error.status_code, InvalidRequest)
    if error.status_code == 404 and (ours := _FOREIGN_ROUTES.get(request.url.path.rstrip("/"))):
        return kind(f"{error.detail}; here it is {ours}")
    return kind(f"{error.detail}; GET /openapi.json lists the routes")


def _ascii(value: Any) -> str:
    return str(value).encode("ascii", "backslashreplace").decode()
