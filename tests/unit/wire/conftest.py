"""A stand-in for the store that replicas and clients share."""

from __future__ import annotations

import pytest
from ray.experimental import internal_kv


@pytest.fixture
def kept(monkeypatch):
    """Ray's key-value store, as a dictionary."""
    entries = {}

    def put(key, value, overwrite, **_):
        if overwrite or key not in entries:
            entries[key] = value.encode() if isinstance(value, str) else value

    monkeypatch.setattr(internal_kv, "_internal_kv_put", put)
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key, **_: entries.get(key))
    monkeypatch.setattr(internal_kv, "_internal_kv_del", lambda key, **_: entries.pop(key, None))
    monkeypatch.setattr(
        internal_kv,
        "_internal_kv_list",
        lambda head, **_: [key.encode() for key in entries if key.startswith(head)],
    )
    return entries
