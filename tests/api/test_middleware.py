"""The middleware around the app: which requests it admits, and what it observes."""

from __future__ import annotations

import asyncio

import pytest

from deployments.api.middleware import AdmissionMiddleware, MetricsMiddleware
from tests.api.calls import EMBEDDINGS, app_of, connect, send
from tests.api.fake_backend import FakeBackend

SOON_S = 0.05


@pytest.fixture
def admission() -> AdmissionMiddleware:
    return AdmissionMiddleware(app_of(FakeBackend()), max_requests=10)


async def test_once_closed_it_answers_503_with_retry_after(admission):
    assert await admission.close(SOON_S) == 0
    async with connect(admission) as http:
        for answer in (await http.post("/v1/embeddings", json={}), await http.get("/ready")):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert "stopping" in answer.json()["error"]["message"]


async def test_once_closed_health_and_metrics_are_still_answered(admission):
    await admission.close(SOON_S)
    async with connect(admission) as http:
        for path in ("/health", "/metrics"):
            assert (await http.get(path)).status_code == 200, path


async def test_closing_waits_for_requests_in_progress():
    go = asyncio.Event()

    async def slow(scope, receive, send):
        await go.wait()

    admission = AdmissionMiddleware(slow, max_requests=10)
    calls = [
        asyncio.create_task(admission({"type": "http", "path": "/"}, None, None)) for _ in "ab"
    ]
    await asyncio.sleep(0)
    assert await admission.close(SOON_S) == 2
    closing = asyncio.create_task(admission.close(60))
    await asyncio.sleep(SOON_S)
    assert not closing.done()
    go.set()
    assert await closing == 0
    await asyncio.gather(*calls)


async def test_a_failed_request_is_no_longer_in_progress():
    async def broken(scope, receive, send):
        raise RuntimeError("broken")

    admission = AdmissionMiddleware(broken, max_requests=10)
    with pytest.raises(RuntimeError, match="broken"):
        await admission({"type": "http", "path": "/"}, None, None)
    assert await admission.close(SOON_S) == 0


@pytest.fixture
def crowded():
    """A middleware whose only place is taken, and the event that frees it."""
    go = asyncio.Event()
    app = app_of(FakeBackend())

    async def slow(scope, receive, send):
        if scope["path"] == "/slow":
            await go.wait()
        await app(scope, receive, send)

    return AdmissionMiddleware(slow, max_requests=1), go


async def test_one_request_too_many_gets_429_with_retry_after_but_probes_are_answered(crowded):
    admission, go = crowded
    async with connect(admission) as http:
        inside = asyncio.create_task(http.get("/slow"))
        await asyncio.sleep(SOON_S)
        refused = await http.post("/v1/embeddings", json={"input": "a text"})
        assert refused.status_code == 429
        assert refused.json()["error"]["message"].startswith("1 ")
        assert int(refused.headers["retry-after"]) >= 1
        for probe in ("/health", "/ready", "/metrics"):
            assert (await http.get(probe)).status_code == 200, probe
        go.set()
        assert (await inside).status_code == 404
        assert (await http.get("/v1/models")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "content", "seen"),
    [
        ("POST", EMBEDDINGS, b'{"input": "a"}', (EMBEDDINGS, 200)),
        ("POST", EMBEDDINGS, b"", (EMBEDDINGS, 400)),
        ("GET", "/v1/models", None, ("/v1/models", 200)),
        ("GET", EMBEDDINGS, None, (EMBEDDINGS, 405)),
        ("GET", "/made/up/9", None, ("other", 404)),
        ("GET", "/docs/assets/swagger-ui.css", None, ("other", 200)),
        ("GET", "/docs/assets/health", None, ("other", 404)),
    ],
)
async def test_each_answer_is_observed_under_its_route(method, path, content, seen):
    answers = []
    app = MetricsMiddleware(app_of(FakeBackend()), lambda *a: answers.append(a))
    async with connect(app) as http:
        await http.request(method, path, content=content)
    [(route, status, seconds)] = answers
    assert (route, status) == seen
    assert 0 <= seconds < 60


async def test_a_failure_is_observed_as_500():
    answers = []
    broken = app_of(FakeBackend(failing=KeyError("a")))
    app = MetricsMiddleware(broken, lambda *a: answers.append(a))
    async with connect(app) as http:
        await send(http, EMBEDDINGS, {"input": "a"})
    assert answers[0][:2] == (EMBEDDINGS, 500)


async def test_a_route_below_a_prefix_is_observed_as_itself():
    answers = []
    app = MetricsMiddleware(app_of(FakeBackend()), lambda *a: answers.append(a))

    async def answer(message):
        pass

    path, prefix = "/embed/v1/models", "/embed"
    scope = {"type": "http", "method": "GET", "path": path, "root_path": prefix, "headers": []}
    await app(scope, None, answer)
    assert answers[0][:2] == ("/v1/models", 200)
