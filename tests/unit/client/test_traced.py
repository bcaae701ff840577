"""The spans of a call to a replica: tokenizing, and how long its texts waited and were computed there."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deployments.client import client as client_module
from deployments.client.client import EncoderClient
from deployments.config.schema import ModelConfig
from deployments.core.batch import Encoded
from deployments.core.errors import InvalidRequest, Overloaded
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.request import EncodeRequest
from deployments.traces.recording import Tracing
from deployments.wire.status import ModelState, ModelStatus
from tests.support.scripted import SPEC, NothingBegun, Replica, load_numbers

QUICK = 0.000_01


class Quick(Replica):
    """Says that texts waited and were computed for some microseconds, less than any call takes."""

    def remote(self, ids, lengths, lane, timeout_s, terms):
        reply = super().remote(ids, lengths, lane, timeout_s, terms)
        if isinstance(reply.outcome, Encoded):
            reply.outcome = Encoded(reply.outcome.vectors, QUICK, 2 * QUICK)
        return reply


@pytest.fixture
def exported():
    return InMemorySpanExporter()


@pytest.fixture
def encode(monkeypatch, exported):
    """Returns a function that encodes texts within a traced request, and returns the request's span."""
    monkeypatch.setattr(client_module, "ClusterRecord", NothingBegun)
    monkeypatch.setattr(client_module, "load_preprocessor", load_numbers)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    tracing = Tracing(provider.get_tracer("test"), provider.shutdown)

    async def run(replica, *counts, lane=Lane.ONLINE):
        status = ModelStatus(ModelState.READY)
        client = EncoderClient(ModelConfig(name=SPEC.name), replica, lambda: status)
        with tracing.request("POST", "/v1/embeddings", {}):
            await client.encode(EncodeRequest(tuple(map(str, counts))), lane, 60)

    return run


def spans(exported, name):
    return [span for span in exported.get_finished_spans() if span.name == name]


def parent(span):
    return span.parent.span_id if span.parent else None


async def test_the_steps_of_a_call(encode, exported):
    await encode(Quick(), 5, 3, lane=Lane.OFFLINE)
    ((root,), (tokenize,), (call,), (wait,), (forward,)) = (
        spans(exported, name)
        for name in ("POST /v1/embeddings", "tokenize", "encode", "wait", "forward")
    )
    assert parent(tokenize) == parent(call) == root.context.span_id
    assert parent(wait) == parent(forward) == call.context.span_id
    assert dict(tokenize.attributes) == {"embedfleet.model": SPEC.name}
    assert dict(call.attributes) == {
        "embedfleet.model": SPEC.name,
        "embedfleet.space": space_id(SPEC),
        "embedfleet.lane": "offline",
        "embedfleet.texts": 2,
        "embedfleet.tokens": 8,
        "embedfleet.queued_ms": QUICK * 1e3,
        "embedfleet.computed_ms": 2 * QUICK * 1e3,
    }
    assert wait.end_time - wait.start_time == QUICK * 1e9
    assert forward.end_time - forward.start_time == 2 * QUICK * 1e9
    assert tokenize.end_time <= call.start_time <= wait.start_time
    assert wait.end_time == forward.start_time
    assert forward.end_time <= call.end_time


async def test_a_request_of_several_calls_has_a_span_for_each(encode, exported):
    await encode(Quick(), 20_000, 20_000, 30_000)
    tokens = [call.attributes["embedfleet.tokens"] for call in spans(exported, "encode")]
    assert sorted(tokens) == [20_000, 20_000, 30_000]
    assert len(spans(exported, "wait")) == len(spans(exported, "forward")) == 3


async def test_a_call_that_is_refused_has_no_parts_and_the_code(encode, exported):
    with pytest.raises(Overloaded):
        await encode(Quick(Overloaded("full", None, 0.01)), 5)
    (call,) = spans(exported, "encode")
    assert call.attributes["error.type"] == Overloaded.code
    assert not call.status.description
    assert not spans(exported, "wait")


async def test_texts_that_are_refused_are_not_sent(encode, exported, monkeypatch):
    def refuse(self, texts):
        raise InvalidRequest("text 0 is nothing", "input")

    monkeypatch.setattr("tests.support.scripted.Numbers.without_tokens", refuse)
    with pytest.raises(InvalidRequest):
        await encode(Quick(), 5)
    (tokenize,) = spans(exported, "tokenize")
    assert tokenize.attributes["error.type"] == InvalidRequest.code
    assert not spans(exported, "encode")
