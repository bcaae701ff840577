"""A small collector: takes traces by OTLP over HTTP, as OpenTelemetry's exporters send them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector:
    """What has arrived so far."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)

    @property
    def services(self) -> set[str]:
        """The names of the services that have sent spans."""
        resources = [part.resource for body in self._requests() for part in body.resource_spans]
        return {values(resource.attributes)["service.name"] for resource in resources}

    @property
    def spans(self) -> list[Span]:
        """All spans, by their start."""
        scopes = [
            scope
            for body in self._requests()
            for part in body.resource_spans
            for scope in part.scope_spans
        ]
        spans = [span for scope in scopes for span in scope.spans]
        return sorted(spans, key=lambda span: span.start_time_unix_nano)

    def named(self, name: str) -> Span:
        """The one span of this name."""
        [span] = [span for span in self.spans if span.name == name]
        return span

    def _requests(self) -> list[ExportTraceServiceRequest]:
        return [ExportTraceServiceRequest.FromString(body) for body in self.bodies]


def values(attributes: Any) -> dict[str, Any]:
    """Returns attributes as a dictionary."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listens on a free port of this machine."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            is_packed = self.headers.get("content-encoding") == "gzip"
            collector.bodies.append(gzip.decompress(body) if is_packed else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
