"""One line in the log for each request: who answered what, how long it took, and why that model.

Serve's own line knows neither the model nor the amount of work. With Serve's JSON encoding, each value is
a field of the record.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.auth import tenant_in
from deployments.core.tenants.tenant import ANYONE

log = logging.getLogger("ray.serve")
TRACE_ID = "embedfleet.trace_id"  # where a request's scope has it
FIELDS = {
    "model": "x-model",
    "space": "x-embedding-space",
    "reason": "x-route-reason",
    "queued_ms": "x-queued-ms",
    "computed_ms": "x-computed-ms",
}
# of W3C's header: a version, the trace's id, the caller's span, and flags
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_CLIENT_GONE = 499  # nginx's status for a client that left before its answer
_FAILED = 400
_MOST_FAILURES = 20  # lines in a second; refusals in a storm must cost next to nothing


@dataclass
class Work:
    """What has been encoded for a request so far."""

    texts: int = 0
    tokens: int = 0


_work: ContextVar[Work | None] = ContextVar("work", default=None)


def count_work(texts: int, tokens: int) -> None:
    """Adds texts that were encoded to the line of the request that is being answered."""
    if (work := _work.get()) is not None:
        work.texts += texts
        work.tokens += tokens


def work_so_far() -> Work | None:
    """Returns the work of the request that is being answered; None outside of the middleware below."""
    return _work.get()


class AccessLogMiddleware:
    """Writes the line once the answer has been sent."""

    def __init__(
        self,
        app: ASGIApp,
        every_request: bool,
        request_id: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Without ``every_request``, only requests that failed have a line, up to 20 a second.

        ``request_id`` returns the id of the request that is being answered.
        """
        self._app = app
        self._every_request = every_request
        self._request_id = request_id
        self._clock = clock
        self._second, self._failures, self._left_out = 0, 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the app does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, work, path = self._clock(), Work(), scope["path"]
        status, headers = _CLIENT_GONE, Headers()

        async def send_and_watch(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status, headers = message["status"], Headers(raw=message["headers"])
            await send(message)

        token = _work.set(work)
        try:
            await self._app(scope, receive, send_and_watch)
        finally:
            _work.reset(token)
            if self._every_request or (status >= _FAILED and self._has_room()):
                fields = {
                    "status": status,
                    "total_ms": round((self._clock() - started) * 1000, 1),
                    **_named_tenant(scope),
                    **_trace_id(scope),
                }
                self._write(f"{scope['method']} {path!r}", fields, headers, work)

    def _has_room(self) -> bool:
        """Whether another failure may be written in this second."""
        if (second := int(self._clock())) != self._second:
            self._second, self._failures = second, 0
        self._failures += 1
        self._left_out += self._failures > _MOST_FAILURES
        return self._failures <= _MOST_FAILURES

    def _write(self, request: str, fields: dict[str, Any], headers: Headers, work: Work) -> None:
        if work.texts:
            fields |= {"texts": work.texts, "tokens": work.tokens}
        fields |= {name: headers[header] for name, header in FIELDS.items() if header in headers}
        if self._left_out:
            fields["left_out"], self._left_out = self._left_out, 0
        details = " ".join(f"{name}={value}" for name, value in fields.items())
        context = {"request": request, "request_id": self._request_id(), **fields}
        log.info("%s %s", request, details, extra=context)


def _named_tenant(scope: Scope) -> dict[str, str]:
    tenant = tenant_in(scope)
    return {} if tenant is ANYONE else {"tenant": tenant.name}


def _trace_id(scope: Scope) -> dict[str, str]:
    """Returns the trace's id: the service's own, or that of the caller if the service makes no traces."""
    if own := scope.get(TRACE_ID):
        return {"trace_id": own}
    sent = _TRACEPARENT.fullmatch(Headers(scope=scope).get("traceparent", ""))
    return {"trace_id": sent[1]} if sent else {}
