"""Traces: each request is a span below its caller's, with its steps below it, sent by OTLP."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import asynccontextmanager
from itertools import pairwise

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider

from deployments.api.access_log import AccessLogMiddleware, count_work
from deployments.api.auth import ApiKeys
from deployments.api.tracing import TracingMiddleware
from deployments.core.errors import ModelUnavailable
from deployments.core.tenants.tenant import Tenant
from deployments.traces.export import tracing_from
from embedfleet import AsyncClient, Bounds, Client
from tests.api.calls import EMBEDDINGS, JSON, RERANK, SIMILARITY, app_of, listening
from tests.api.fake_backend import FakeBackend
from tests.support.otlp import collecting, values

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
UNSET, OK, ERROR = range(3)
SECRETS = ("a text of somebody", "secret")


class Counting(FakeBackend):
    """Counts its work, as the router does."""

    async def encode(self, decision, request, lane, deadline):
        embeddings = await super().encode(decision, request, lane, deadline)
        count_work(len(embeddings.vectors), embeddings.tokens)
        return embeddings


@pytest.fixture
def lines(monkeypatch):
    """The fields of each request's line in the log."""
    fields = []

    def info(line, *args, extra=None):
        fields.extend([extra] if extra else [])

    monkeypatch.setattr(logging.getLogger("ray.serve"), "info", info)
    return fields


@pytest.fixture
def collector(monkeypatch):
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


@asynccontextmanager
async def traced(backend=None, keys=None):
    """Yields a client of the app as the router wraps it; at the end, all spans are exported."""
    tracing = tracing_from()
    app = app_of(backend or Counting(), keys=keys)
    app = AccessLogMiddleware(TracingMiddleware(app, tracing), True, lambda: "id")
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        yield http
    await asyncio.to_thread(tracing.close)


@pytest.mark.parametrize("slash", ["", "/"])
async def test_a_request_knows_its_tenant_and_lane(collector, lines, slash):
    keys = ApiKeys(tenants={hashlib.sha256(b"secret").digest(): Tenant("search")})
    headers = {"authorization": "Bearer secret"}
    async with traced(keys=keys) as http:
        body = {"input": "a", "priority": "offline"}
        response = await http.post(EMBEDDINGS + slash, json=body, headers=headers)
    assert response.status_code == 200
    [root] = [span for span in collector.spans if not span.parent_span_id]
    facts = values(root.attributes)
    assert (facts["embedfleet.tenant"], facts["embedfleet.lane"]) == ("search", "offline")
    assert [line["tenant"] for line in lines] == ["search"]


async def test_a_request_and_its_steps_are_spans_below_the_callers(collector, lines):
    keys = ApiKeys(tenants={hashlib.sha256(b"secret").digest(): Tenant("search")})
    headers = {"authorization": "Bearer secret", **PARENT}
    async with traced(keys=keys) as http:
        body = {"input": ["a text of somebody"], "priority": "offline"}
        response = await http.post(EMBEDDINGS, json=body, headers=headers)
    root = collector.named(f"POST {EMBEDDINGS}")
    assert response.headers["traceparent"] == f"00-{TRACE}-{root.span_id.hex()}-01"
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE, CALLER)
    assert collector.services == {"embedfleet"}
    answer = response.json()
    assert values(root.attributes) == {
        "http.request.method": "POST",
        "http.route": EMBEDDINGS,
        "http.response.status_code": 200,
        "embedfleet.model": "plain",
        "embedfleet.space": answer["space"],
        "embedfleet.reason": "default",
        "embedfleet.lane": "offline",
        "embedfleet.tenant": "search",
        "embedfleet.texts": 1,
        "embedfleet.tokens": answer["usage"]["total_tokens"],
    }
    steps = [span for span in collector.spans if span is not root and span.name != root.name]
    assert [step.name for step in steps] == ["read", "choose", "write"]
    assert {step.parent_span_id for step in steps} == {root.span_id}
    for before, after in pairwise(steps):
        assert before.end_time_unix_nano <= after.start_time_unix_nano
    assert steps[-1].end_time_unix_nano <= root.end_time_unix_nano
    assert [line["trace_id"] for line in lines] == [TRACE]
    assert not [secret for secret in SECRETS if secret.encode() in b"".join(collector.bodies)]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (SIMILARITY, {"query": "a", "documents": ["b"]}),
        (RERANK, {"query": "a", "documents": ["b"]}),
        ("/rerank", {"query": "a", "texts": ["b"]}),
        ("/embed", {"inputs": "a"}),
    ],
)
async def test_other_routes_have_the_same_steps(collector, lines, path, body):
    async with traced() as http:
        assert (await http.post(path, json=body)).status_code == 200
    root = collector.named(f"POST {path}")
    below = [span.name for span in collector.spans if span.parent_span_id == root.span_id]
    assert below == ["read", "choose", "write"]
    assert not root.parent_span_id


async def test_a_failure_is_marked_without_its_message(collector, lines):
    failing = ModelUnavailable("no weights for: a text of somebody", "model", 1.0)
    async with traced(FakeBackend(failing=failing)) as http:
        await http.post(EMBEDDINGS, json={"input": "a"}, headers=PARENT)
    root = collector.named(f"POST {EMBEDDINGS}")
    assert (root.status.code, root.status.message) == (ERROR, "")
    assert values(root.attributes)["error.type"] == "503"
    assert not [event for span in collector.spans for event in span.events]
    assert (lines[0]["status"], lines[0]["trace_id"]) == (503, TRACE)


async def test_a_step_that_is_refused_has_the_code_of_the_error(collector, lines):
    async with traced() as http:
        await http.post(EMBEDDINGS, json={"input": "a", "model": "unknown"})
        await http.post(EMBEDDINGS, content=b"{", headers=JSON)
    kinds = {span.name: values(span.attributes).get("error.type") for span in collector.spans}
    assert kinds["choose"] == "model_not_found"
    reads = [values(span.attributes) for span in collector.spans if span.name == "read"]
    assert [read.get("error.type") for read in reads] == [None, "invalid_value"]
    roots = [span for span in collector.spans if span.name == f"POST {EMBEDDINGS}"]
    assert [root.status.code for root in roots] == [UNSET, UNSET]  # the caller's mistake
    assert [values(root.attributes)["http.response.status_code"] for root in roots] == [404, 400]


async def test_what_callers_make_up_is_no_name_and_probes_have_no_trace(collector, lines):
    async with traced(keys=ApiKeys(["key"])) as http:
        for path in ("/health", "/ready", "/metrics"):
            assert "traceparent" not in (await http.get(path)).headers
        await http.get("/v1/a-secret-path")
        await http.request("SECRET", "/v1/models")
    assert [span.name for span in collector.spans] == ["GET", "_OTHER /v1/models"]
    assert b"secret" not in b"".join(collector.bodies).lower()


async def test_what_is_not_sampled_is_not_sent_but_has_an_id(collector, lines, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    async with traced() as http:
        response = await http.post(EMBEDDINGS, json={"input": "a"})
        sampled = await http.post(EMBEDDINGS, json={"input": "a"}, headers=PARENT)
    assert not is_sampled(response)
    assert lines[0]["trace_id"] == response.headers["traceparent"].split("-")[1]
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert is_sampled(sampled)


def is_sampled(response):
    return bool(int(response.headers["traceparent"].split("-")[3], 16) & 1)


async def test_requests_beside_each_other_are_apart(collector, lines):
    async with traced() as http:
        posts = [http.post(EMBEDDINGS, json={"input": "a"}) for _ in range(20)]
        answers = await asyncio.gather(*posts)
    traces = {answer.headers["traceparent"].split("-")[1] for answer in answers}
    assert len(traces) == 20
    for trace in traces:
        spans = [span for span in collector.spans if span.trace_id.hex() == trace]
        assert len(spans) == 4
        [root] = [span for span in spans if not span.parent_span_id]
        assert {span.parent_span_id for span in spans if span is not root} == {root.span_id}


async def test_a_client_that_leaves(collector, lines):
    tracing = tracing_from()

    async def app(scope, receive, send):
        raise asyncio.CancelledError

    scope = {"type": "http", "method": "POST", "path": EMBEDDINGS, "headers": []}
    with pytest.raises(asyncio.CancelledError):
        await TracingMiddleware(app, tracing)(scope, None, None)
    await asyncio.to_thread(tracing.close)
    root = collector.named(f"POST {EMBEDDINGS}")
    assert values(root.attributes)["error.type"] == "client_left"


async def test_the_python_client_hands_on_its_callers_span(collector, lines):
    tracing = tracing_from()
    provider = TracerProvider()
    with (
        listening(TracingMiddleware(app_of(FakeBackend()), tracing)) as url,
        Client(url, bounds=Bounds(max_texts=1)) as client,
        provider.get_tracer("caller").start_as_current_span("search") as caller,
    ):
        await asyncio.to_thread(client.embed, ["a", "b", "c"])  # each in a request of its own
        async with AsyncClient(url) as beside:
            await beside.rerank("a", ["b"])
    tracing.close()
    roots = [span for span in collector.spans if span.name.startswith("POST ")]
    assert len(roots) == 4
    assert {root.parent_span_id.hex() for root in roots} == {f"{caller.context.span_id:016x}"}
