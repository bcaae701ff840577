"""Where replicas listen: each writes its address into Ray's key-value store, by its replica id.

Clients know from Serve's handle which replicas run; here they find how to reach one. Whoever can read a
token from this store could also call the replica through Ray.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass

from deployments.ray_private import KeyValueStore

log = logging.getLogger("ray.serve")
_store = KeyValueStore("embedfleet")


@dataclass(frozen=True)
class Address:
    """Where one replica listens, the token that it wants to see, and the protocol it speaks."""

    host: str
    port: int
    token: bytes
    version: int


def publish(replica: str, address: Address) -> None:
    """Writes a replica's address. Blocks. Raises what the store raises."""
    _store.put(_key(replica), json.dumps({**asdict(address), "token": address.token.hex()}))


def find(replica: str) -> Address | None:
    """Returns a replica's address; None if it has written none. Blocks, raises what the store raises."""
    value = _store.get(_key(replica))
    if value is None:
        return None
    fields = json.loads(value)
    return Address(
        str(fields["host"]), int(fields["port"]), bytes.fromhex(fields["token"]), fields["version"]
    )


def withdraw(replica: str) -> None:
    """Removes the address of a replica that has gone. Blocks; a store that is away keeps it."""
    try:
        _store.delete(_key(replica))
    except Exception as error:
        log.debug("the address of replica %s stays in the store: %r", replica, error)


def _key(replica: str) -> str:
    return f"line/{replica}"
