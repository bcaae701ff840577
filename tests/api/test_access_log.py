"""The line of each request in the log."""

from __future__ import annotations

import logging

import httpx
import pytest

from deployments.api.access_log import AccessLogMiddleware, count_work
from deployments.api.auth import set_tenant
from deployments.core.tenants.tenant import Tenant

HEADERS = [(b"x-model", b"plain"), (b"x-route-reason", b"size"), (b"x-queued-ms", b"1.5")]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def lines(monkeypatch):
    """The records that were logged."""
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("ray.serve")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.manager._clear_cache()
    return records


def calls(every_request, clock=None):
    """Returns a client of an app that answers with the status in its path, after some work."""

    async def app(scope, receive, send):
        status = int(scope["path"].rpartition("/")[2])
        if status == 200:
            count_work(2, 11)
            count_work(1, 4)
        if scope["path"].startswith("/tenant"):
            set_tenant(scope, Tenant("search"))
        await send({"type": "http.response.start", "status": status, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"{}"})

    logged = AccessLogMiddleware(app, every_request, lambda: "id-7", clock or Clock())
    transport = httpx.ASGITransport(app=logged)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_a_line_has_everything_that_is_known_of_a_request(lines):
    async with calls(every_request=True) as http:
        await http.post("/v1/200", content=b"the text itself")
    (line,) = lines
    assert line.getMessage().startswith("POST '/v1/200' status=200 ")
    fields = {"texts": 3, "tokens": 15, "model": "plain", "reason": "size", "queued_ms": "1.5"}
    assert fields.items() <= vars(line).items()
    assert (line.request_id, line.total_ms) == ("id-7", 0.0)
    assert "the text" not in str(vars(line))
    assert not hasattr(line, "tenant")


async def test_a_line_names_the_tenant(lines):
    async with calls(every_request=False) as http:
        await http.post("/tenant/429")
    (line,) = lines
    assert line.tenant == "search"
    assert " tenant=search " in line.getMessage()


async def test_without_an_access_log_failures_have_their_lines(lines):
    async with calls(every_request=False) as http:
        for status in (200, 400, 503):
            await http.get(f"/{status}")
    assert [line.status for line in lines] == [400, 503]


async def test_a_storm_of_refusals_is_summed_up(lines):
    clock = Clock()
    async with calls(every_request=False, clock=clock) as http:
        for _ in range(50):
            await http.get("/429")
        assert len(lines) == 20
        clock.now += 1
        await http.get("/429")
    assert lines[-1].left_out == 30


async def test_a_path_begins_no_line_of_its_own(lines):
    async with calls(every_request=True) as http:
        await http.get("/a%0AINFO forged/404")
    assert "\n" not in lines[0].getMessage()


async def test_requests_beside_each_other_are_counted_apart(lines):
    async with calls(every_request=True) as http:
        await http.get("/404")
        await http.get("/200")
    assert not hasattr(lines[0], "texts")
    assert lines[1].texts == 3


TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"01-{TRACE}-b7ad6b7169203331-00-more", TRACE),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", None),
        (f"ff-{TRACE}-b7ad6b7169203331-01", None),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", None),
        ("a text of somebody", None),
    ],
)
async def test_a_failure_has_the_callers_trace_though_no_traces_are_made(lines, traceparent, trace):
    async with calls(every_request=False) as http:
        await http.get("/404", headers={"traceparent": traceparent})
    (line,) = lines
    assert getattr(line, "trace_id", None) == trace
    assert "somebody" not in line.getMessage()
