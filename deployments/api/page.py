"""The page at `/`, where people compare texts and watch the fleet.

Its files are served as they are. They load nothing from elsewhere, and the browser is told to refuse
anything else. The page calls the API as any client does, with the key that its user enters.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

PATH = "/page"
_FOLDER = Path(__file__).with_name("static")
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
ASSETS = tuple(
    f"{PATH}/{file.name}" for file in sorted(_FOLDER.iterdir()) if file.name != "index.html"
)
_POLICY = (
    *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'"),
    *("connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
    *("require-trusted-types-for 'script'", "trusted-types 'none'"),
)
_HEADERS = {
    "content-security-policy": "; ".join(_POLICY),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",  # the files of two versions must not be mixed
    "vary": "accept",  # `/` answers other clients with JSON
}


async def page(request: Request) -> Response:
    """Shows the page."""
    del request
    return _file("index.html")


async def asset(request: Request) -> Response:
    """Returns one of the files that the page loads."""
    return _file(request.scope["path"].rpartition("/")[2])  # a path of `ASSETS`


def _file(name: str) -> Response:
    media_type = _TYPES[Path(name).suffix]
    return Response(_content(name), headers=_HEADERS, media_type=media_type)


@cache
def _content(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()
