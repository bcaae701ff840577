"""The middleware around the app: which requests it admits, and what it observes."""

from __future__ import annotations

import asyncio

import pytest

from deployments.api import arrivals
from deployments.api.auth import allowed_hosts, host_name
from deployments.api.headers import HeaderMiddleware, checks
from deployments.api.middleware import AdmissionMiddleware, HostMiddleware, MetricsMiddleware
from tests.api.calls import EMBEDDINGS, JSON, app_of, check_refusal, connect, send
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
        ("GET", "/docs/swagger-ui.css", None, ("/docs/swagger-ui.css", 200)),
        ("GET", "/docs/health", None, ("other", 404)),
        ("GET", "/v1/models/owner/name", None, ("/v1/models/{name}", 404)),
        ("GET", "/v1/files/file-1", None, ("/v1/files/{id}", 404)),
        ("GET", "/v1/files/file-1/content/", None, ("/v1/files/{id}/content", 404)),
        ("POST", "/v1/batches/batch_1/cancel", b"", ("/v1/batches/{id}/cancel", 404)),
        ("GET", "/v1/batches/batch_1/9", None, ("other", 404)),
    ],
)
async def test_each_answer_is_observed_under_its_route(method, path, content, seen):
    answers = []
    app = MetricsMiddleware(app_of(FakeBackend()), lambda *a: answers.append(a))
    async with connect(app) as http:
        await http.request(method, path, content=content, headers=JSON)
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


class Upload:
    """A body whose parts the test sends one by one."""

    def __init__(self, http):
        self.parts = asyncio.Queue()
        self.answer = asyncio.create_task(http.post(EMBEDDINGS, content=self._body(), headers=JSON))

    async def _body(self):
        while part := await self.parts.get():
            yield part

    async def send(self, *parts):
        for part in parts:
            await self.parts.put(part)
            await asyncio.sleep(0.01)


@pytest.fixture
def few(monkeypatch):
    """A middleware with two places for requests and two for bodies that arrive."""
    monkeypatch.setattr(arrivals, "_STANDS_STILL_S", 0.1)
    return AdmissionMiddleware(app_of(FakeBackend()), max_requests=2)


async def test_bodies_that_arrive_take_no_place_of_requests(few):
    async with asyncio.timeout(20), connect(few) as http:
        slow = [Upload(http) for _ in range(2)]
        for upload in slow:
            await upload.send(b"{")
        assert few._limiter._inside == 0
        await slow[0].send(b'"input": "a"}', b"")
        assert (await slow[0].answer).status_code == 200
        slow[1].answer.cancel()


async def test_the_body_that_stands_still_the_longest_makes_room(few):
    async with asyncio.timeout(20), connect(few) as http:
        first, second = Upload(http), Upload(http)
        await first.send(b"{")
        await second.send(b"{")
        await asyncio.sleep(0.2)
        await second.send(b" ")
        assert (await send(http, EMBEDDINGS, {"input": "a"})).status_code == 200
        check_refusal(await first.answer, 408, None, "body_timeout", "8192 bytes")
        await second.send(b'"input": "a"}', b"")
        assert (await second.answer).status_code == 200


async def test_a_body_that_the_service_lets_wait_does_not_stand_still(monkeypatch):
    """Such as an upload while a part of it is written."""
    monkeypatch.setattr(arrivals, "_STANDS_STILL_S", 0.05)
    monkeypatch.setattr(arrivals, "_PART_S", 0.3)
    bodies = arrivals.Arrivals(2)
    parts = asyncio.Queue()
    waits = bodies.begin()
    await parts.put({"type": "http.request", "body": b"a", "more_body": True})
    await waits.next(parts.get)
    await asyncio.sleep(0.5)
    bodies.begin()
    await parts.put({"type": "http.request", "body": b"b", "more_body": False})
    assert (await waits.next(parts.get))["body"] == b"b"


async def test_a_still_body_makes_room_from_half_of_the_bound_on(monkeypatch):
    """HAProxy opens no more connections to a router than the bound."""
    monkeypatch.setattr(arrivals, "_STANDS_STILL_S", 0.1)
    four = AdmissionMiddleware(app_of(FakeBackend()), max_requests=4)
    async with asyncio.timeout(20), connect(four) as http:
        still = [Upload(http) for _ in range(2)]
        for upload in still:
            await upload.send(b"{")
        await asyncio.sleep(0.2)
        assert (await send(http, EMBEDDINGS, {"input": "a"})).status_code == 200
        check_refusal(await still[0].answer, 408, None, "body_timeout")
        assert not still[1].answer.done()
        still[1].answer.cancel()


async def test_bodies_that_keep_coming_are_not_cut_off_for_others(few):
    async with asyncio.timeout(20), connect(few) as http:
        uploads = [Upload(http) for _ in range(2)]
        for upload in uploads:
            await upload.send(b"{")
        refused = await send(http, EMBEDDINGS, {"input": "a"})
        check_refusal(refused, 429, None, "overloaded")
        assert "retry-after" in refused.headers
        for upload in uploads:
            await upload.send(b'"input": "a"}', b"")
            assert (await upload.answer).status_code == 200


async def test_a_body_that_trickles_is_given_up_within_seconds(few, monkeypatch):
    monkeypatch.setattr(arrivals, "_PART_S", 0.2)
    async with asyncio.timeout(20), connect(few) as http:
        upload = Upload(http)
        for _ in range(60):
            await upload.send(b" ")
        check_refusal(await upload.answer, 408, None, "body_timeout")


async def test_a_slow_body_that_keeps_its_pace_is_read(few, monkeypatch):
    monkeypatch.setattr(arrivals, "_PART_S", 0.3)
    async with asyncio.timeout(20), connect(few) as http:
        upload = Upload(http)
        for _ in range(5):
            await upload.send(b" " * 8_192)
            await asyncio.sleep(0.1)
        await upload.send(b'{"input": "a"}', b"")
        assert (await upload.answer).status_code == 200


async def test_without_a_place_a_body_is_not_waited_for(crowded):
    admission, go = crowded
    async with asyncio.timeout(20), connect(admission) as http:
        inside = asyncio.create_task(http.get("/slow"))
        await asyncio.sleep(SOON_S)
        upload = Upload(http)
        await upload.send(b"")
        check_refusal(await upload.answer, 429, None, "overloaded")
        go.set()
        await inside


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST", 200),
        ("our.name:8000", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8000", 403),
        ("", 403),
    ],
)
async def test_a_page_whose_name_resolves_to_this_machine_is_refused(host, status):
    hosts = allowed_hosts({"EMBEDFLEET_ALLOWED_HOSTS": "Our.Name, other.name"})
    async with connect(HostMiddleware(app_of(FakeBackend()), hosts)) as http:
        response = await http.get("/v1/models", headers={"host": host})
    assert response.status_code == status
    if status == 403:
        check_refusal(response, 403, "host", "forbidden_host", "EMBEDFLEET_ALLOWED_HOSTS")


async def test_without_a_list_any_host_may_be_named():
    assert not allowed_hosts({})
    assert not allowed_hosts({"EMBEDFLEET_ALLOWED_HOSTS": " ,"})
    async with connect(HostMiddleware(app_of(FakeBackend()), ())) as http:
        assert (await http.get("/health", headers={"host": "any.example"})).status_code == 200


@pytest.mark.parametrize(
    ("header", "name"),
    [("a.b:80", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("A", "a"), ("a:b", "a:b")],
)
def test_the_name_in_a_host_header(header, name):
    assert host_name(header) == name


@pytest.mark.parametrize(
    "name",
    [
        b"x-request-id",
        b"x-request-timeout-seconds",
        b"x-request-disconnect-disabled",
        b"x-session-id",
        b"serve_multiplexed_model_id",
        b"Serve-Multiplexed-Model-Id",
        b"traceparent",
    ],
)
@pytest.mark.parametrize("value", [b"\xff\xfe", b"caf\xe9", b"a" * 257, b"a\x7f"])
async def test_headers_that_serve_cannot_read_are_refused(name, value):
    async with connect(HeaderMiddleware(app_of(FakeBackend()))) as http:
        response = await http.get("/health", headers=[(name, value)])
    check_refusal(response, 400, name.decode().lower(), "invalid_header")
    assert len(response.content) < 400


async def test_other_headers_may_hold_any_bytes():
    headers = [(b"x-request-id", b"a" * 256), (b"x-mine", b"\xff" * 999)]
    async with connect(HeaderMiddleware(app_of(FakeBackend()))) as http:
        assert (await http.get("/health", headers=headers)).status_code == 200


@pytest.mark.parametrize(("length", "status"), [(512, 200), (513, 400)])
async def test_tracestate_may_be_as_long_as_w3c_wants(length, status):
    async with connect(HeaderMiddleware(app_of(FakeBackend()))) as http:
        response = await http.get("/health", headers={"tracestate": "a" * length})
    assert response.status_code == status


def test_serve_takes_the_checks():
    [check] = checks()
    assert check.cls is HeaderMiddleware
