"""What a router waits for before it stops."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

from opentelemetry.sdk.trace import TracerProvider

from deployments.api.middleware import AdmissionMiddleware
from deployments.router import deployment
from deployments.router.deployment import Router
from deployments.traces.recording import Tracing


async def test_a_collector_that_hangs_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr(deployment, "_LAST_TRACES_S", 0.01)
    answers = threading.Event()
    tracing = Tracing(TracerProvider().get_tracer("test"), lambda: answers.wait(30))
    router = SimpleNamespace(
        _admission=AdmissionMiddleware(lambda *_: None, max_requests=1),
        _args=SimpleNamespace(limits=SimpleNamespace(request_timeout_s=1.0)),
        _tracing=tracing,
    )
    try:
        await asyncio.wait_for(Router.drain(router), 5)
    finally:
        answers.set()
