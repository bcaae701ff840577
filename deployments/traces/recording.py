"""Records the steps of requests as OpenTelemetry's spans, below the span of the caller.

All of them are made in the router: a replica's answer says how long its texts waited and computed
(`deployments/wire/frames.py`). No span holds a text, a key, or a message that may quote one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from opentelemetry.context import Context
from opentelemetry.propagate import extract
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context

from deployments.traces.spans import Attributes, Span, recorder

log = logging.getLogger("ray.serve")
PREFIX = "embedfleet."  # of the names of our own attributes
_SERVER_ERROR = 500


class Tracing:
    """Makes the traces of requests."""

    def __init__(self, tracer: Tracer, shutdown: Callable[[], None]) -> None:
        """``shutdown`` exports what was not exported yet."""
        self._tracer = tracer
        self.close = shutdown

    async def close_within(self, seconds: float) -> None:
        """Closes it in a thread. If the collector is too slow, the log says so, and spans are lost."""
        try:
            await asyncio.wait_for(asyncio.to_thread(self.close), seconds)
        except TimeoutError:
            log.warning("the last traces are lost: their collector took over %g s", seconds)

    @contextmanager
    def request(
        self, method: str, route: str | None, headers: Mapping[str, str]
    ) -> Iterator[RequestTrace]:
        """Makes the trace of a request, below the span that its ``traceparent`` names, if any.

        ``route`` is one of our own; None for any other path.
        Steps are recorded only if the sampler wants this trace.
        """
        caller = extract(headers)
        about = {"http.request.method": method, **({"http.route": route} if route else {})}
        name = f"{method} {route}" if route else method
        root = self._tracer.start_span(name, caller, SpanKind.SERVER, about)
        trace = RequestTrace(self._tracer, root)
        token = recorder.set(trace if root.is_recording() else None)
        try:
            yield trace
        finally:
            recorder.reset(token)
            root.end()


class RequestTrace:
    """The spans of one request, whose steps may run in several tasks."""

    def __init__(self, tracer: Tracer, root: OtelSpan) -> None:
        self._tracer = tracer
        self._root = root
        self._below = set_span_in_context(root)
        self._step_ended_ns = 0

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._root.get_span_context().trace_id:032x}"

    @property
    def traceparent(self) -> str:
        """The request's own span, as W3C's header of this name."""
        own = self._root.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def note(self, attributes: Attributes) -> None:
        """Adds attributes to the whole request."""
        self._root.set_attributes(_named(attributes))

    def step(self, name: str, attributes: Attributes) -> Span:
        """As `spans.span`."""
        return _Step(self, self.start(name, self._below, _named(attributes)))

    def step_ended(self) -> None:
        """Notes that a step ends now."""
        self._step_ended_ns = time.time_ns()

    def answered(self, status: int | None) -> None:
        """Says that the request ends with this HTTP status; None if its client left before.

        What followed the last step, if there was one, was to write the answer.
        """
        if self._step_ended_ns:
            self.start("write", self._below, start_ns=self._step_ended_ns).end()
        if status is None:
            self._root.set_attribute("error.type", "client_left")
            return
        self._root.set_attribute("http.response.status_code", status)
        if status >= _SERVER_ERROR:
            fail(self._root, str(status))

    def start(
        self, name: str, below: Context, attributes: Attributes | None = None, start_ns: int = 0
    ) -> OtelSpan:
        """Starts a span, now or at ``start_ns`` of `time.time_ns`."""
        return self._tracer.start_span(
            name, below, attributes=attributes, start_time=start_ns or time.time_ns()
        )


class _Step(Span):
    def __init__(self, trace: RequestTrace, own: OtelSpan) -> None:
        self._trace = trace
        self._span = own

    def __enter__(self) -> Self:
        self._started_ns = time.time_ns()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            fail(self._span, getattr(kind, "code", kind.__name__))
        self._span.end()
        self._trace.step_ended()

    def split(self, waited_s: float, computed_s: float) -> None:
        """Adds the two parts as spans below this one."""
        exact = {"queued_ms": round(waited_s * 1e3, 3), "computed_ms": round(computed_s * 1e3, 3)}
        self._span.set_attributes({PREFIX + name: value for name, value in exact.items()})
        below = set_span_in_context(self._span)
        times = parts(self._started_ns, time.time_ns(), waited_s, computed_s)
        for name, (start_ns, end_ns) in zip(("wait", "forward"), times, strict=True):
            self._trace.start(name, below, start_ns=start_ns).end(end_ns)


def parts(
    started_ns: int, ended_ns: int, waited_s: float, computed_s: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns when a call's texts waited, and when they were computed, each as start and end.

    A replica's clock is not this machine's, so the rest of the call, its way there and back, is halved.
    Passes beside each other may compute for longer than the call takes: no part leaves the call.
    """
    whole = ended_ns - started_ns
    waited = min(round(waited_s * 1e9), whole)
    computed = min(round(computed_s * 1e9), whole - waited)
    begins = started_ns + (whole - waited - computed) // 2
    return (begins, begins + waited), (begins + waited, begins + waited + computed)


def fail(failed: OtelSpan, kind: str) -> None:
    """Marks a span as failed, without the error's message, which may quote the request."""
    failed.set_attribute("error.type", kind)
    failed.set_status(StatusCode.ERROR)


def _named(attributes: Attributes) -> dict[str, str | int]:
    return {PREFIX + name: value for name, value in attributes.items()}
