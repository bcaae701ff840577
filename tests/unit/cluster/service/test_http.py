"""What the command line says of an address at which no service of ours is."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
        (
            401,
            "answers {request} with 401 Unauthorized (text/html), not in the form of embedfleet;",
        ),
        (403, "answers {request} with 403 Forbidden (text/html), not in the form of embedfleet;"),
        (404, "is not embedfleet: it answers {request} with 404 Not Found (text/html);"),
        (408, "answers {request} with 408 Request Timeout (text/html) instead of the service;"),
        (
            500,
            "answers {request} with 500 Internal Server Error (text/html) instead of the service;",
        ),
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
    assert ("is not embedfleet" in line) is (status in (200, 404))


@pytest.mark.parametrize("command", ["models", "verify"])
def test_another_path_of_ray_serve_is_not_another_server(monkeypatch, capsys, command):
    def answer(_, method, path, **__):
        if path == "/-/routes":
            return httpx.Response(200, json={"/other": "app"})
        return httpx.Response(404, text=f"Path '{path}' not found. Ping http://.../-/routes")

    monkeypatch.setattr(httpx.Client, "request", answer)
    assert cli.main([command, "--url", URL]) == 1
    said = capsys.readouterr().err
    assert f"Ray Serve runs at {URL}, but answers GET /v1/models with 404 Not Found" in said
    assert "is not embedfleet" not in said


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


BATCH = {
    "id": "batch_1",
    "status": "completed",
    "request_counts": {"total": 1, "completed": 1, "failed": 0},
    "errors": None,
    "output_file_id": "file_1",
    "error_file_id": None,
}


class BreaksOff(BaseHTTPRequestHandler):
    """Has a batch that is done, and closes the connection in the middle of its results."""

    def do_GET(self):
        is_file = self.path.startswith("/v1/files/")
        body = b"half" if is_file else json.dumps(BATCH).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body) * (2 if is_file else 1)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_download_that_breaks_off_can_be_repeated(tmp_path, capsys):
    with ThreadingHTTPServer(("127.0.0.1", 0), BreaksOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, results = f"127.0.0.1:{server.server_port}", tmp_path / "results.jsonl"
        words = ["batch", "--id", "batch_1", "--url", url, "--output", str(results)]
        assert cli.main(words) == 1
        server.shutdown()
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        f"embedfleet: the download of file_1 from http://{url} broke off after 4 bytes ("
    )
    assert said.endswith("; run `embedfleet batch --id batch_1` again")
    assert not results.exists()
