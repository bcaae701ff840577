"""A real HTTP server on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def local_server(body: bytes, status: int = 200, key: str | None = None) -> Iterator[int]:
    """Answers every GET the same way, or with 401 if ``key`` is missing; yields the port of 127.0.0.1."""
    expected = f"Bearer {key}".encode().decode("latin-1") if key else None

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            has_key = expected is None or self.headers["authorization"] == expected
            self.send_response(status if has_key else 401)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
