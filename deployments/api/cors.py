"""Pages in a browser that may call from another origin (CORS): none, unless the config lists them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from deployments.api.rate_limits import PREFIX

_METHODS = ("GET", "POST")
# what a page may read of an answer, beside its body
_EXPOSED = (
    *("x-model", "x-embedding-space", "x-route-reason", "x-request-id", "x-truncated-texts"),
    *("x-queued-ms", "x-computed-ms", "retry-after", "retry-after-ms"),
    *(
        f"{PREFIX}{what}-{unit}"
        for what in ("limit", "remaining", "reset")
        for unit in ("requests", "tokens")
    ),
)
_MAX_AGE_S = 600


def allow_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Returns the app with the headers by which browsers let pages of these origins call it.

    A page sends its key in a header, as any caller does; cookies are not used.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=_METHODS,
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        max_age=_MAX_AGE_S,
    )
