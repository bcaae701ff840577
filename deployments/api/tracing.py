"""The trace of each request: W3C's ``traceparent`` in and out, and what is known of it at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.api.access_log import FIELDS, TRACE_ID, work_so_far
from deployments.api.auth import tenant_in
from deployments.api.middleware import route_of
from deployments.api.rate_limits import lane_in
from deployments.api.routes import PROBE_PATHS
from deployments.core.tenants.tenant import ANYONE

if TYPE_CHECKING:  # else OpenTelemetry would be imported
    from deployments.traces.recording import RequestTrace, Tracing

_TRACEPARENT = "traceparent"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_OF_ANSWERS = ("model", "space", "reason")


class TracingMiddleware:
    """Makes a trace of each request but those of probes. Goes inside the middleware of the log."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers as the app does, with ``traceparent`` among the headers."""
        if scope["type"] != "http" or (route := route_of(scope)) in PROBE_PATHS:
            await self._app(scope, receive, send)
            return
        # what the caller made up must not become a name
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        with self._tracing.request(method, route, Headers(scope=scope)) as trace:
            scope[TRACE_ID] = trace.trace_id
            await self._traced(trace, scope, receive, send)

    async def _traced(
        self, trace: RequestTrace, scope: Scope, receive: Receive, send: Send
    ) -> None:
        status: int | None = None

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[_TRACEPARENT] = trace.traceparent
                said = {name: headers.get(FIELDS[name]) for name in _OF_ANSWERS}
                trace.note({name: value for name, value in said.items() if value})
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            trace.note(_facts(scope))
            trace.answered(status)


def _facts(scope: Scope) -> dict[str, str | int]:
    """Returns what is known of a request that has been answered."""
    facts: dict[str, str | int] = {}
    if (tenant := tenant_in(scope)) is not ANYONE:
        facts["tenant"] = tenant.name
    if lane := lane_in(scope):
        facts["lane"] = lane.value
    if (work := work_so_far()) and work.texts:
        facts |= vars(work)
    return facts
