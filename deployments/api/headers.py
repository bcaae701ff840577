"""Checks the headers that Ray Serve reads before it calls the app.

Serve decodes them on every route, and answers a bare 500 if they are not UTF-8. It also echoes and
logs the request's id. `embedfleet env` has Serve put this check in front of its own code.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.api.accepting import accept_many_a_turn
from deployments.api.http import error_response
from deployments.core.errors import InvalidRequest

_MOST_BYTES = 256
_MOST_BYTES_OF = {b"tracestate": 512}  # W3C's least that should be passed on
# in lower case and with `_` for `-`, as Serve compares some of them
_READ_BY_SERVE = frozenset(
    {
        b"x_request_id",
        b"x_request_timeout_seconds",
        b"x_request_disconnect_disabled",
        b"x_session_id",
        b"serve_multiplexed_model_id",
        b"traceparent",
        b"tracestate",
    }
)


class InvalidHeader(InvalidRequest):
    """A header that cannot be used; ``param`` is its name."""

    code = "invalid_header"


class HeaderMiddleware:
    """Answers 400 to a request with a header that Serve could not read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 400, or passes the request on."""
        if scope["type"] == "http":
            try:
                _check(scope["headers"])
            except InvalidHeader as error:
                await error_response(Request(scope, receive), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def checks() -> list[Middleware]:
    """Returns what Serve puts around every app (``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``)."""
    accept_many_a_turn()
    return [Middleware(HeaderMiddleware)]


def _check(headers: list[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        known_as = name.lower().replace(b"-", b"_")
        if known_as not in _READ_BY_SERVE:
            continue
        shown = name.decode("latin-1")
        most = _MOST_BYTES_OF.get(known_as, _MOST_BYTES)
        if len(value) > most:
            raise InvalidHeader(
                f"the header {shown} has {len(value)} bytes; send at most {most}", shown
            )
        if not all(0x20 <= byte < 0x7F for byte in value):
            raise InvalidHeader(
                f"the header {shown} holds bytes that are not printable ASCII; send ASCII only",
                shown,
            )
