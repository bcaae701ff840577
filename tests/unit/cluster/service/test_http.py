"""What the command line says of an address at which no service of ours is."""

from __future__ import annotations

import httpx
import pytest

from cluster import cli
from cluster.service.http import Service
from tests.support.local_server import local_server

URL = "http://here:1"


@pytest.fixture
def answers(monkeypatch):
    """Sets what any server answers with status 200."""

    def set_to(content: bytes) -> None:
        response = httpx.Response(200, content=content)
        monkeypatch.setattr(httpx.Client, "request", lambda *_, **__: response)

    return set_to


@pytest.mark.parametrize(
    "content",
    [b"<html>", b"", b"\xff\xfe\xfd", b"[]", b'{"object": "list"}', b'{"data": [{"id": "gpt"}]}'],
)
@pytest.mark.parametrize("command", ["models", "verify"])
def test_another_server(answers, capsys, command, content):
    answers(content)
    assert cli.main([command, "--url", URL]) == 1
    assert f"at {URL} is not embedfleet" in capsys.readouterr().err


PAGE = b"<!doctype html><html><title>nginx</title>\n" + b"<p>page</p>\n" * 100


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (200, "is not embedfleet: it answers {request} with 200 OK (text/html), in another form;"),
        (401, "is not embedfleet: it answers {request} with 401 Unauthorized (text/html);"),
        (404, "is not embedfleet: it answers {request} with 404 Not Found (text/html);"),
        (502, "does not reach the service: it answers {request} with 502 Bad Gateway (text/html);"),
    ],
)
@pytest.mark.parametrize("command", ["models", "verify", "batch", "batch --id"])
def test_a_page_of_another_server_is_one_line(
    monkeypatch, tmp_path, capsys, command, status, words
):
    requests = {"batch": "POST /v1/files", "batch --id": "GET /v1/batches/x"}
    (tmp_path / "in.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    arguments = [*command.split(), *{"batch": ["in.jsonl"], "batch --id": ["x"]}.get(command, [])]
    with local_server(PAGE, status, content_type="text/html; charset=utf-8") as port:
        assert cli.main([*arguments, "--url", f"127.0.0.1:{port}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words.format(request=requests.get(command, "GET /v1/models")) in line
    assert f"http://127.0.0.1:{port} " in line
    assert "<" not in line


@pytest.mark.parametrize("command", ["models", "verify"])
def test_an_address_that_is_none(capsys, command):
    assert cli.main([command, "--url", "http://here:eight"]) == 1
    assert "http://here:eight is not a valid address" in capsys.readouterr().err


def test_what_is_ours(answers):
    answers(b'{"data": [{"id": "m"}], "spaces": []}')
    assert Service(URL).models() == [{"id": "m"}]
    assert Service(URL).spaces() == []


@pytest.mark.parametrize("command", ["models", "verify"])
@pytest.mark.parametrize(
    ("key", "words"),
    [([], "requires an API key"), (["--api-key", "wrong"], "does not accept this API key")],
)
def test_a_service_that_wants_a_key(monkeypatch, capsys, command, key, words):
    monkeypatch.delenv("EMBEDFLEET_API_KEY", raising=False)
    body = {"error": {"message": "send your API key as `Authorization: Bearer <key>`"}}
    response = httpx.Response(401, json=body)
    monkeypatch.setattr(httpx.Client, "request", lambda *_, **__: response)
    assert cli.main([command, "--url", URL, *key]) == 1
    said = capsys.readouterr().err
    assert f"the service at {URL} {words}; set EMBEDFLEET_API_KEY or --api-key" in said
    assert "Bearer" not in said
