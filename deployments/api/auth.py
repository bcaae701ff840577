"""Who may call: API keys, and the names of the service's own host.

Keys are compared in constant time, and never written to a log.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from deployments.core.errors import Unauthorized

ALLOWED_HOSTS = "EMBEDFLEET_ALLOWED_HOSTS"
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")  # no page in a browser can have these names


class ApiKeys:
    """The keys that callers may use. Without any, the whole API is open."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = tuple(key.strip().encode() for key in keys if key.strip())

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ApiKeys:
        """Reads ``EMBEDFLEET_API_KEYS`` (separated by commas) and ``EMBEDFLEET_API_KEYS_FILE`` (one a
        line).

        An empty variable counts as unset. Raises OSError if the file cannot be read, and ValueError
        if a variable that is set holds no key: a service that should be closed must not open.
        """
        keys = []
        if listed := environ.get("EMBEDFLEET_API_KEYS"):
            keys += _at_least_one(listed.split(","), "EMBEDFLEET_API_KEYS holds")
        if file := environ.get("EMBEDFLEET_API_KEYS_FILE"):
            subject = f"EMBEDFLEET_API_KEYS_FILE names {file}, which holds"
            keys += _at_least_one(Path(file).read_text("utf-8-sig").splitlines(), subject)
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def authorization(self) -> bytes | None:
        """The value of an ``Authorization`` header that is accepted; None without keys."""
        return b"Bearer " + self._keys[0] if self._keys else None

    def check(self, authorization: str | None) -> None:
        """Raises Unauthorized unless the ``Authorization`` header carries one of the keys."""
        if not self._keys:
            return
        if authorization is None:
            raise Unauthorized("send your API key as `Authorization: Bearer <key>`")
        scheme, _, key = authorization.partition(" ")
        sent = key.strip(" ").encode("latin-1")  # ASGI decodes header bytes as latin-1
        # every key is compared, so the time taken says nothing about which one matched
        matches = [hmac.compare_digest(sent, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized("unknown API key; send it as `Authorization: Bearer <key>`")


def _at_least_one(keys: list[str], subject: str) -> list[str]:
    if any(key.strip() for key in keys):
        return keys
    raise ValueError(
        f"{subject} no key: add one, or unset the variable to open the API to everyone"
    )


def allowed_hosts(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Returns the hosts that requests may name, the loopback's included; empty means any."""
    listed = [host.strip().lower() for host in environ.get(ALLOWED_HOSTS, "").split(",")]
    return frozenset((*filter(None, listed), *_LOCAL_HOSTS)) if any(listed) else frozenset()


def host_name(header: str) -> str:
    """Returns a ``Host`` header in lower case, without its port."""
    name, _, port = header.lower().rpartition(":")
    return (name if port.isdecimal() else header.lower()).strip("[]")
