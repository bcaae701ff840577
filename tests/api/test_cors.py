"""Pages of other origins: refused by the browser unless the config lists them."""

from __future__ import annotations

import pytest

from deployments.api.auth import ApiKeys
from deployments.api.cors import allow_origins
from deployments.config.schema import Api
from tests.api.calls import EMBEDDINGS, JSON, app_of, connect
from tests.api.fake_backend import FakeBackend

OURS, OTHER = "https://app.example.com", "https://evil.example.com"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}
ALLOWED = "access-control-allow-origin"


def page(origins):
    app = app_of(FakeBackend(), keys=ApiKeys(["secret"]))
    return connect(allow_origins(app, origins))


async def preflight(http, origin, **headers):
    return await http.options(EMBEDDINGS, headers={"origin": origin, **PREFLIGHT, **headers})


async def post(http, origin, key="secret"):
    headers = {"origin": origin, "authorization": f"Bearer {key}", **JSON}
    return await http.post(EMBEDDINGS, json={"input": "a"}, headers=headers)


@pytest.mark.parametrize("origin", [OURS, OTHER, "null"])
async def test_off_by_default(origin):
    async with page(Api().cors_origins) as http:
        asked, answered = await preflight(http, origin), await post(http, origin)
    assert asked.status_code == 401
    assert not [name for name in (*asked.headers, *answered.headers) if "access-control" in name]


async def test_a_listed_origin_may_call_and_read_the_headers():
    async with page([OURS]) as http:
        asked, answered = await preflight(http, OURS), await post(http, OURS)
    assert (asked.status_code, asked.headers[ALLOWED]) == (200, OURS)
    assert asked.headers["access-control-allow-headers"] == "authorization,content-type"
    assert (answered.status_code, answered.headers[ALLOWED]) == (200, OURS)
    exposed = answered.headers["access-control-expose-headers"].split(", ")
    assert {"x-model", "x-embedding-space", "retry-after"} <= set(exposed)
    assert "origin" in answered.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answered.headers


async def test_errors_can_be_read_too():
    async with page([OURS]) as http:
        refused = await post(http, OURS, key="wrong")
    assert (refused.status_code, refused.headers[ALLOWED]) == (401, OURS)


@pytest.mark.parametrize(
    ("origin", "headers"),
    [
        (OTHER, {}),
        ("https://app.example.com.evil.com", {}),
        ("http://app.example.com", {}),
        ("null", {}),
        (OURS, {"access-control-request-method": "DELETE"}),
    ],
)
async def test_other_preflights_are_refused(origin, headers):
    async with page([OURS]) as http:
        asked, answered = await preflight(http, origin, **headers), await post(http, origin)
    assert asked.status_code == 400
    assert origin == OURS or ALLOWED not in asked.headers
    assert origin == OURS or ALLOWED not in answered.headers


async def test_every_origin_if_the_config_says_so():
    async with page(["*"]) as http:
        asked, answered = await preflight(http, OTHER), await post(http, OTHER)
    assert asked.headers[ALLOWED] == answered.headers[ALLOWED] == "*"


@pytest.mark.parametrize(
    "origin",
    ["", "app.example.com", "https://app.example.com/", "https://a.b/c", "null", "https://*.a.com"],
)
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(ValueError, match="cors_origins"):
        Api(cors_origins=(origin,))


@pytest.mark.parametrize("origin", ["*", OURS, "http://localhost:3000", "http://[::1]:8080"])
def test_origins(origin):
    assert Api(cors_origins=(origin,)).cors_origins == (origin,)
