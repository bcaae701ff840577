"""API keys: who may call which route, and how a refusal looks."""

from __future__ import annotations

import pytest

from deployments.api.auth import ApiKeys
from deployments.api.routes import DIALECT_ROUTES, ROUTES
from tests.api.calls import EMBEDDINGS, JSON, app_of, check_refusal, connect
from tests.api.fake_backend import FakeBackend

BODY = b'{"input": "a"}'
FILES_OF_THE_PAGE = (
    *("page.css", "icon.svg", "main.js", "answer.js", "elements.js", "fleet.js", "key.js"),
    *("service.js", "similarity.js", "snippets.js", "texts.js", "throughput.js"),
)
OPEN = {
    *("/health", "/ready", "/openapi.json", "/docs"),
    *("/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/favicon-32x32.png"),
    *("/page", *(f"/page/{name}" for name in FILES_OF_THE_PAGE)),
}
CLOSED = [
    *((s.method, s.path) for s in ROUTES if s.path not in OPEN and s not in DIALECT_ROUTES),
    ("GET", "/v1/models/plain"),
    ("GET", "/docs/__init__.py"),
    ("GET", "/docs/../v1/models"),
    ("GET", "/page/index.html"),
    ("GET", "/page/../v1/models"),
    ("GET", "/unknown"),
    ("GET", "/health/more"),
    ("GET", "http://test//health"),
    ("GET", "/ready%3f"),
]
REFUSED = [
    b"Bearer wrong",
    b"Bearer secre",
    b"Bearer secrets",
    b"Bearer secret two",
    b"Bearer SECRET",
    b"Bearer ",
    b"Bearer",
    b"",
    b"secret",
    b"Basic secret",
    b"Basic c2VjcmV0",
    b"Bearer:secret",
    "Bearer clé".encode(),
    b"Bearer \xff\xfe\xa0",
    b"Bearer secret\xa0",
    None,
]


@pytest.fixture
async def closed():
    keys = ApiKeys(["secret", " two ", "schlüssel", ""])
    async with connect(app_of(FakeBackend(), keys=keys)) as http:
        yield http


async def call(http, method, path, authorization, **headers):
    sent = {**JSON, **headers}
    if authorization is not None:
        sent["authorization"] = authorization
    content = BODY if method == "POST" else None
    return await http.request(method, path, content=content, headers=sent)


def check_unauthorized(response):
    check_refusal(response, 401, None, "invalid_api_key", "`Authorization: Bearer <key>`")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path"), CLOSED)
async def test_every_route_but_probes_and_the_description_needs_a_key(closed, method, path):
    check_unauthorized(await call(closed, method, path, None))


@pytest.mark.parametrize("spec", DIALECT_ROUTES, ids=lambda spec: f"{spec.method} {spec.path}")
async def test_every_route_of_another_server_needs_a_key(closed, spec):
    response = await call(closed, spec.method, spec.path, None)
    assert response.status_code == 401
    assert "`Authorization: Bearer <key>`" in response.text
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("authorization", REFUSED)
async def test_wrong_credentials_are_refused(closed, authorization):
    check_unauthorized(await call(closed, "POST", EMBEDDINGS, authorization))


@pytest.mark.parametrize("path", sorted(OPEN))
@pytest.mark.parametrize("authorization", [None, b"Bearer wrong"])
async def test_probes_and_the_description_stay_open(closed, path, authorization):
    assert (await call(closed, "GET", path, authorization)).status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        b"Bearer secret",
        b"bearer secret",
        b"BEARER  secret ",
        b"Bearer two",
        "Bearer schlüssel".encode(),
    ],
)
async def test_right_credentials_are_accepted(closed, authorization):
    assert (await call(closed, "POST", EMBEDDINGS, authorization)).status_code == 200


@pytest.mark.parametrize("host", ["evil/health?", "evil/health#", "x@y/ready?z=", "[", ""])
async def test_no_host_header_opens_a_route(closed, host):
    check_unauthorized(await call(closed, "POST", EMBEDDINGS, None, host=host))


@pytest.mark.parametrize(("key", "status"), [(None, 401), (b"Bearer two", 200)])
async def test_a_query_of_any_bytes_does_not_fail(key, status):
    answered: list[int] = []

    async def send(message):
        answered.append(message.get("status", 0))

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/models",
        "query_string": b"\xff\xfe",
        "headers": [(b"authorization", key)] if key else [],
    }
    await app_of(FakeBackend(), keys=ApiKeys(["two"]))(scope, None, send)
    assert answered[0] == status


async def test_open_paths_are_recognised_below_a_prefix():
    app = app_of(FakeBackend(), keys=ApiKeys(["secret"]))
    statuses = {}
    for path in ("/embed/health", "/embed/v1/models"):

        async def send(message, path=path):
            statuses.setdefault(path, message.get("status"))

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "root_path": "/embed",
            "headers": [],
        }
        await app(scope, None, send)
    assert statuses == {"/embed/health": 200, "/embed/v1/models": 401}


async def test_without_keys_everything_is_open(client):
    assert (await call(client, "POST", EMBEDDINGS, None)).status_code == 200
    assert (await call(client, "POST", EMBEDDINGS, b"Bearer anything")).status_code == 200


@pytest.mark.parametrize(
    ("environ", "opens"),
    [
        ({}, None),
        ({"EMBEDFLEET_API_KEYS": ""}, None),
        ({"EMBEDFLEET_API_KEYS": "", "EMBEDFLEET_API_KEYS_FILE": ""}, None),
        ({"EMBEDFLEET_API_KEYS": "a"}, ["a"]),
        ({"EMBEDFLEET_API_KEYS": "a, b"}, ["a", "b"]),
    ],
)
def test_keys_from_the_environment(environ, opens):
    keys = ApiKeys.from_environment(environ)
    assert bool(keys) == (opens is not None)
    for key in opens or ():
        keys.caller(f"Bearer {key}")


def test_keys_from_a_file(tmp_path):
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    environ = {"EMBEDFLEET_API_KEYS": "three", "EMBEDFLEET_API_KEYS_FILE": str(file)}
    keys = ApiKeys.from_environment(environ)
    for key in ("one", "two", "three"):
        keys.caller(f"Bearer {key}")


def test_a_missing_key_file_does_not_open_the_service(tmp_path):
    with pytest.raises(OSError, match="absent"):
        ApiKeys.from_environment({"EMBEDFLEET_API_KEYS_FILE": str(tmp_path / "absent")})


@pytest.mark.parametrize("keys", [" ", ",", " , ,"])
def test_blank_keys_do_not_open_the_service(keys):
    with pytest.raises(ValueError, match="EMBEDFLEET_API_KEYS holds no key"):
        ApiKeys.from_environment({"EMBEDFLEET_API_KEYS": keys})


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_a_key_does_not_open_the_service(tmp_path, content):
    file = tmp_path / "keys"
    file.write_text(content)
    for others in ({}, {"EMBEDFLEET_API_KEYS": "a"}):
        with pytest.raises(ValueError, match=r"FILE names .*/keys, which holds no key"):
            ApiKeys.from_environment({**others, "EMBEDFLEET_API_KEYS_FILE": str(file)})


def test_no_key_is_kept_but_its_hash():
    assert "secret" not in repr(vars(ApiKeys(["secret"])))


def test_a_byte_order_mark_before_the_first_key(tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbfsecret\r\nother\n")
    keys = ApiKeys.from_environment({"EMBEDFLEET_API_KEYS_FILE": str(file)})
    keys.caller("Bearer secret")
    keys.caller("Bearer other")
