"""API keys: who may call. Compared in constant time, and never written to a log."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from deployments.core.errors import Unauthorized

OPEN_PATHS = frozenset({"/health", "/ready"})


class ApiKeys:
    """The keys that open every route but `/health` and `/ready`; none means that all are open."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = tuple(key.strip().encode() for key in keys if key.strip())

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ApiKeys:
        """Reads ``EMBEDFLEET_API_KEYS`` (commas between) and ``EMBEDFLEET_API_KEYS_FILE`` (lines).

        Each counts as unset when it is empty. Raises OSError when the file is named and cannot be
        read, ValueError when either holds no key: a service that was meant to be closed must not open.
        """
        keys = []
        if listed := environ.get("EMBEDFLEET_API_KEYS"):
            keys += _some(listed.split(","), "EMBEDFLEET_API_KEYS holds")
        if file := environ.get("EMBEDFLEET_API_KEYS_FILE"):
            named = f"EMBEDFLEET_API_KEYS_FILE names {file}, which holds"
            keys += _some(Path(file).read_text().splitlines(), named)
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def authorization(self) -> bytes | None:
        """The header's value with which a caller is let in; None where all are."""
        return b"Bearer " + self._keys[0] if self._keys else None

    def check(self, path: str, authorization: str | None) -> None:
        """Raises Unauthorized unless the header carries one of the keys, or the path is open."""
        if not self._keys or path in OPEN_PATHS:
            return
        if authorization is None:
            raise Unauthorized("send your API key as `Authorization: Bearer <key>`")
        scheme, _, key = authorization.partition(" ")
        given = key.strip(" ").encode("latin-1")  # the bytes that were sent, as ASGI decodes them
        # every key is compared, so the time taken says nothing about which one matched
        matches = [hmac.compare_digest(given, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(matches):
            raise Unauthorized(
                "this API key is not known; send it as `Authorization: Bearer <key>`"
            )


def _some(keys: list[str], what: str) -> list[str]:
    if any(key.strip() for key in keys):
        return keys
    raise ValueError(f"{what} no key: give one, or unset the variable to let everybody in")
