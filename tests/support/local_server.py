"""A real HTTP server on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_REFUSAL = b'{"error": {"message": "send your API key", "code": "invalid_api_key"}}'


@contextmanager
def local_server(
    body: bytes, status: int = 200, key: str | None = None, content_type: str | None = None
) -> Iterator[int]:
    """Answers every GET, HEAD and POST the same way; yields the port of 127.0.0.1.

    If ``key`` is set, requests without it get our 401.
    """
    with _serving(_answer(body, status, key, content_type)) as port:
        yield port


@contextmanager
def local_server_of(replies: Mapping[str, tuple[int, bytes]]) -> Iterator[int]:
    """Answers a GET of each path with its status and body, of others with 404; yields the port."""

    class Answer(_Quiet):
        def do_GET(self):
            status, body = replies.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

    with _serving(Answer) as port:
        yield port


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


def _answer(
    body: bytes, status: int, key: str | None, content_type: str | None
) -> type[BaseHTTPRequestHandler]:
    expected = f"Bearer {key}".encode().decode("latin-1") if key else None

    class Answer(_Quiet):
        def do_GET(self):
            has_key = expected is None or self.headers["authorization"] == expected
            self.send_response(status if has_key else 401)
            if content_type:
                self.send_header("content-type", content_type)
            self.end_headers()
            self.wfile.write(body if has_key else _REFUSAL)

        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            self.do_GET()

    return Answer
