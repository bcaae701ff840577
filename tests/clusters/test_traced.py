"""A trace from a client through HTTP, HAProxy and the router to a replica's forward pass and back."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider

from embedfleet import Client
from testing.running import API_KEY, running_service
from testing.waiting import until
from tests.support.otlp import collecting, values

pytestmark = pytest.mark.long
MODEL = "all-MiniLM-L6-v2"
TEXTS = ["a text of somebody"] * 3


def test_a_trace_reaches_a_collector():
    with collecting() as collector:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with (
            running_service([{"name": MODEL}], [MODEL], environment=environment) as service,
            Client(service.url, API_KEY) as client,
        ):
            tracer = TracerProvider().get_tracer("caller")
            with tracer.start_as_current_span("search") as caller:
                answer = client.embed(TEXTS, model=MODEL)
            trace = f"{caller.context.trace_id:032x}"

            def spans():
                return [span for span in collector.spans if span.trace_id.hex() == trace]

            until(lambda: len(spans()) == 8, 20)
    names = {span.span_id: span.name for span in spans()}
    tree = [(span.name, names.get(span.parent_span_id, "the caller's")) for span in spans()]
    root = "POST /v1/embeddings"
    assert tree == [
        (root, "the caller's"),
        ("read", root),
        ("choose", root),
        ("tokenize", root),
        ("encode", root),
        ("wait", "encode"),
        ("forward", "encode"),
        ("write", root),
    ]
    [encode] = [values(span.attributes) for span in spans() if span.name == "encode"]
    assert encode["embedfleet.tokens"] == answer.tokens
    assert encode["embedfleet.computed_ms"] > 0
    assert not [
        body for body in collector.bodies if b"somebody" in body or API_KEY.encode() in body
    ]
