"""Who may call: API keys, and the names of the service's own host.

Keys are looked up by their SHA-256, so the time that takes says nothing about them. They are never
written to a log.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from starlette.requests import Request
from starlette.types import Scope

from deployments.core.errors import Unauthorized
from deployments.core.tenants.tenant import ANYONE, Tenant

ALLOWED_HOSTS = "EMBEDFLEET_ALLOWED_HOSTS"
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")  # no page in a browser can have these names
_TENANT = "embedfleet.tenant"


class ApiKeys:
    """The keys that callers may use, and whose they are. Without any, the whole API is open."""

    def __init__(
        self, keys: Iterable[str] = (), tenants: Mapping[bytes, Tenant] | None = None
    ) -> None:
        """``keys`` belong to nobody in particular; ``tenants`` are those of further keys, by their
        SHA-256.
        """
        stripped = (key.strip() for key in keys)
        self._nameless = {_digest(key.encode()): ANYONE for key in stripped if key}
        self.use(tenants or {})

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ApiKeys:
        """Returns the keys of `listed_keys`. Raises as that."""
        return cls(listed_keys(environ))

    def use(self, tenants: Mapping[bytes, Tenant]) -> None:
        """Replaces the tenants and their keys, for requests that arrive from now on."""
        self._tenants: Mapping[bytes, Tenant] = {**self._nameless, **tenants}

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def caller(self, authorization: str | None) -> Tenant:
        """Returns whose key an ``Authorization`` header carries.

        Without keys, that is `ANYONE`. Raises Unauthorized if it carries none of them.
        """
        if not self._tenants:
            return ANYONE
        if authorization is None:
            raise Unauthorized("send your API key as `Authorization: Bearer <key>`")
        scheme, _, key = authorization.partition(" ")
        sent = key.strip(" ").encode("latin-1")  # ASGI decodes header bytes as latin-1
        tenant = self._tenants.get(_digest(sent))
        if scheme.lower() != "bearer" or tenant is None:
            raise Unauthorized("unknown API key; send it as `Authorization: Bearer <key>`")
        return tenant


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def listed_keys(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Returns the keys of ``EMBEDFLEET_API_KEYS`` (separated by commas) and of the file that
    ``EMBEDFLEET_API_KEYS_FILE`` names (one a line).

    An empty variable counts as unset. Raises OSError if the file cannot be read, and ValueError
    if a variable that is set holds no key: a service that should be closed must not open.
    """
    keys = []
    if listed := environ.get("EMBEDFLEET_API_KEYS"):
        keys += _at_least_one(listed.split(","), "EMBEDFLEET_API_KEYS holds")
    if file := environ.get("EMBEDFLEET_API_KEYS_FILE"):
        subject = f"EMBEDFLEET_API_KEYS_FILE names {file}, which holds"
        keys += _at_least_one(Path(file).read_text("utf-8-sig").splitlines(), subject)
    return keys


def _at_least_one(keys: list[str], subject: str) -> list[str]:
    stripped = [key.strip() for key in keys if key.strip()]
    if stripped:
        return stripped
    raise ValueError(
        f"{subject} no key: add one, or unset the variable to open the API to everyone"
    )


def set_tenant(scope: Scope, tenant: Tenant) -> None:
    """Notes whose request this is."""
    scope[_TENANT] = tenant


def tenant_of(request: Request) -> Tenant:
    """Returns whose request this is; `ANYONE` on routes that need no key."""
    return tenant_in(request.scope)


def tenant_in(scope: Scope) -> Tenant:
    """As `tenant_of`."""
    tenant: Tenant = scope.get(_TENANT, ANYONE)
    return tenant


def allowed_hosts(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Returns the hosts that requests may name, the loopback's included; empty means any."""
    listed = [host.strip().lower() for host in environ.get(ALLOWED_HOSTS, "").split(",")]
    return frozenset((*filter(None, listed), *_LOCAL_HOSTS)) if any(listed) else frozenset()


def host_name(header: str) -> str:
    """Returns a ``Host`` header in lower case, without its port."""
    name, _, port = header.lower().rpartition(":")
    return (name if port.isdecimal() else header.lower()).strip("[]")
