"""What all routes share: limits, admission of offline requests, response headers, and errors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.responses import error_body
from deployments.core.errors import (
    BodyTooSlow,
    EmbedfleetError,
    InvalidRequest,
    Unauthorized,
)
from deployments.core.lane import Lane
from deployments.core.models.spec import Kind
from deployments.core.request import Embeddings
from deployments.core.routing.overload import ConcurrencyLimiter
from deployments.core.routing.policy import Decision

# writes an error as another server would: its status and its body
ErrorFormat = Callable[[EmbedfleetError], tuple[int, bytes]]
JSON = "application/json"
REQUIRE_SPACE = "x-require-space"
MAX_NAME = 512  # characters of a model's or a space's name
_OUR_ROUTES = ("POST /v1/embeddings", "POST /v1/rerank", "POST /v1/similarity", "GET /v1/models")
# the last parts of paths of other servers, and of OpenAI's under a wrong base
_THEIR_ROUTES = {
    **dict.fromkeys(
        ("embeddings", "embedding", "embed", "embed_all", "predictions"), _OUR_ROUTES[0]
    ),
    **dict.fromkeys(("rerank", "reranking", "rank"), _OUR_ROUTES[1]),
    **dict.fromkeys(("similarity", "score"), _OUR_ROUTES[2]),
    **dict.fromkeys(("models", "model", "info", "tags"), _OUR_ROUTES[3]),
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


def required_space(request: Request) -> str | None:
    """Returns the header ``x-require-space``. Raises InvalidRequest if it cannot be a space."""
    space = request.headers.get(REQUIRE_SPACE)
    if space is not None and len(space) > MAX_NAME:
        raise InvalidRequest(
            f"the header {REQUIRE_SPACE} has {len(space)} characters, but a space has at most {MAX_NAME}",
            "space",
        )
    return space


@contextmanager
def admitted(request: Request, lane: Lane) -> Iterator[None]:
    """Bounds the offline requests that wait here for replicas, so that they do not fill the router.

    Raises Overloaded.
    """
    if lane is Lane.ONLINE:
        yield
        return
    offline: ConcurrencyLimiter = request.app.state.offline
    offline.enter(time.monotonic())
    try:
        yield
    finally:
        offline.leave(time.monotonic())


def embedding_response(body: bytes, embeddings: Embeddings, decision: Decision) -> Response:
    """Returns a 200 with the headers that say which model answered, why, and how long it took.

    ``x-request-id`` is added by Serve: the caller's own, or a new one, which is also in Serve's log.
    """
    headers = {
        "x-model": _ascii(embeddings.model),
        **({} if decision.kind is Kind.RERANKER else {"x-embedding-space": embeddings.space}),
        "x-route-reason": _ascii(decision.reason),
        "x-queued-ms": f"{embeddings.queued_s * 1000:.1f}",
        "x-computed-ms": f"{embeddings.computed_s * 1000:.1f}",
    }
    return Response(body, headers=headers, media_type=JSON)


def error_response(
    request: Request, error: Exception, error_format: ErrorFormat | None = None
) -> Response:
    """Returns the response to an error; all have the same shape, but for the routes of other servers."""
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
    status, body = (error_format or own_format)(known)
    return Response(body, status, headers, JSON)


def own_format(error: EmbedfleetError) -> tuple[int, bytes]:
    """Returns an error's status and body as our own routes answer it."""
    return error.status, error_body(error)


def _as_known(request: Request, error: Exception) -> EmbedfleetError:
    if not isinstance(error, HTTPException):
        return EmbedfleetError("internal error; the service's log has it under the request id")
    kinds: dict[int, type[InvalidRequest]] = {404: NotFound, 405: MethodNotAllowed}
    kind = kinds.get(error.status_code, InvalidRequest)
    last = request.scope["path"].rstrip("/").rpartition("/")[2]
    if error.status_code == 404 and (ours := _THEIR_ROUTES.get(last)):
        return kind(f"{error.detail}; here it is {ours}")
    return kind(f"{error.detail}; GET /openapi.json lists the routes")


def _ascii(value: Any) -> str:
    return str(value).encode("ascii", "backslashreplace").decode()
