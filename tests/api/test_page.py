"""The page at `/`: who gets it, who gets the route of another server, and what it may load."""

from __future__ import annotations

import re

import pytest
from starlette.testclient import TestClient

from deployments.api import page
from deployments.api.auth import ApiKeys
from deployments.api.routes import PATHS
from tests.api.calls import app_of, connect
from tests.api.fake_backend import FakeBackend

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = {file.name: file.read_text() for file in page._FOLDER.iterdir()}


def app(**options):
    return connect(app_of(FakeBackend(), **options))


def is_page(response):
    return response.status_code == 200 and "<title>embedfleet</title>" in response.text


@pytest.mark.parametrize("keys", [None, ApiKeys(["secret"])])
@pytest.mark.parametrize("path", ["/", "/page"])
async def test_a_browser_gets_the_page_with_and_without_keys(keys, path):
    async with app(keys=keys) as http:
        response = await http.get(path, headers=BROWSER)
        head = await http.head(path, headers=BROWSER)
    assert is_page(response)
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["vary"] == "accept"
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == response.headers["content-length"]


@pytest.mark.parametrize("accept", ["*/*", "application/json", ""])
async def test_other_clients_get_what_the_other_servers_answer(accept):
    async with app() as http:
        index = await http.get("/", headers={"accept": accept})
        vectors = await http.post("/", json={"inputs": "a"}, headers=BROWSER)
    assert index.json()["predictions_url"] == "/predictions"
    assert len(vectors.json()) == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_page_opens_no_route_of_another_server(method):
    accept = BROWSER if method == "POST" else {}
    async with app(keys=ApiKeys(["secret"])) as http:
        assert (await http.request(method, "/", headers=accept)).status_code == 401


async def test_the_switch_turns_it_off():
    async with app(page=False) as http:
        index = await http.get("/", headers=BROWSER)
        files = [await http.get(path, headers=BROWSER) for path in (page.PATH, *page.ASSETS)]
    assert index.json()["predictions_url"] == "/predictions"
    assert {response.status_code for response in files} == {404}


@pytest.mark.parametrize("prefix", ["", "/embed"])
def test_a_slash_behind_the_page_is_redirected_away_because_its_files_are_named_relatively(prefix):
    client = TestClient(app_of(FakeBackend(), keys=ApiKeys(["secret"])), root_path=prefix)
    response = client.get(f"{prefix}/page/", headers=BROWSER)
    assert is_page(response)
    assert response.url.path == f"{prefix}/page"


async def test_without_the_page_there_is_no_redirect():
    async with app(page=False) as http:
        assert (await http.get("/page/", headers=BROWSER)).status_code == 404


def test_below_a_prefix():
    client = TestClient(app_of(FakeBackend(), keys=ApiKeys(["secret"])), root_path="/embed")
    assert is_page(client.get("/embed/", headers=BROWSER))
    assert client.get("/embed/page/main.js").headers["content-type"].startswith("text/javascript")


async def test_browsers_may_load_nothing_else():
    async with app() as http:
        headers = (await http.get("/", headers=BROWSER)).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    sources = {name: source for name, source in policy.items() if name.endswith("-src")}
    assert sources.pop("default-src") == "'none'"
    assert set(sources.values()) == {"'self'"}
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert headers["referrer-policy"] == "no-referrer"


async def test_each_file_that_is_named_is_served_as_what_it_is():
    named = {*re.findall(r'(?:src|href)="page/([^"]+)"', FILES["index.html"])}
    for text in FILES.values():
        named |= {*re.findall(r'from "\./([^"]+)"', text)}
    assert named == {path.removeprefix("/page/") for path in page.ASSETS}
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    async with app() as http:
        for name in named:
            response = await http.get(f"/page/{name}")
            assert response.text == FILES[name]
            assert response.headers["content-type"].split(";")[0] == kinds[name.split(".")[1]]


@pytest.mark.parametrize("name", FILES)
def test_no_file_names_another_host_or_makes_markup_of_text(name):
    hosts = set(re.findall(r"https?://[\w.]+", FILES[name]))
    assert hosts <= {"http://www.w3.org"}  # the name of SVG's namespace
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", FILES[name])
    assert not re.search(r"localStorage|document\.cookie|indexedDB", FILES[name])


def test_what_the_page_calls_are_routes():
    called = set(re.findall(r'\b(?:get|post)\("([^"]+)"', "".join(FILES.values())))
    paths = {f"/{name}" for name in called if not name.startswith("x-")}  # which are headers
    assert paths == {"/v1/models", "/metrics", "/v1/embeddings", "/v1/route"}
    assert paths <= PATHS
