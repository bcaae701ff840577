"""How long a trace is recorded, and where a call's wait and forward passes are placed in its span."""

from __future__ import annotations

import asyncio
import logging
import threading

from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from deployments.traces.recording import Tracing, parts
from deployments.traces.spans import Span, recorder, span

TIMES = st.integers(0, 10**11)
SECONDS = st.floats(0, 100)


def test_the_way_there_and_back_is_halved():
    assert parts(100, 1_000_000_100, 0.2, 0.4) == (
        (200_000_100, 400_000_100),
        (400_000_100, 800_000_100),
    )


@given(TIMES, TIMES, SECONDS, SECONDS)
@example(0, 0, 1.0, 1.0)
def test_no_part_leaves_the_call(started, took, waited, computed):
    (wait, waited_until), (forward, done) = parts(started, started + took, waited, computed)
    assert started <= wait <= waited_until == forward <= done <= started + took


def test_without_a_trace_nothing_is_recorded():
    assert recorder.get() is None
    with span("encode", model="plain", tokens=3) as step:
        step.split(1.0, 2.0)
    assert type(step) is Span
    assert span("read") is step  # the same for all, so none is made


def test_a_trace_ends_with_its_request():
    tracing = Tracing(TracerProvider().get_tracer("test"), lambda: None)
    with tracing.request("GET", "/v1/models", {}) as trace:
        assert recorder.get() is trace
    assert recorder.get() is None


async def test_a_collector_that_hangs_does_not_hold_up_the_end(monkeypatch):
    warnings, answers = [], threading.Event()
    monkeypatch.setattr(
        logging.getLogger("ray.serve"), "warning", lambda line, *args: warnings.append(line % args)
    )
    tracing = Tracing(TracerProvider().get_tracer("test"), lambda: answers.wait(30))
    try:
        await asyncio.wait_for(tracing.close_within(0.01), 5)
    finally:
        answers.set()
    assert len(warnings) == 1


async def test_a_collector_that_answers_is_waited_for():
    closed = []
    tracing = Tracing(TracerProvider().get_tracer("test"), lambda: closed.append(True))
    await tracing.close_within(5)
    assert closed
