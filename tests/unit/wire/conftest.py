"""A stand-in for the store that replicas and clients share."""

from __future__ import annotations

import pytest
from ray.experimental import internal_kv


@pytest.fixture
def kept(monkeypatch):
    """Ray's key-value store, as a dictionary."""
    entries = {}
    monkeypatch.setattr(
        internal_kv,
        "_internal_kv_put",
        lambda key, value, **_: entries.update({key: value.encode()}),
    )
    monkeypatch.setattr(internal_kv, "_internal_kv_get", lambda key, **_: entries.get(key))
    monkeypatch.setattr(internal_kv, "_internal_kv_del", lambda key, **_: entries.pop(key, None))
    monkeypatch.setattr(
        internal_kv,
        "_internal_kv_list",
        lambda head, **_: [key.encode() for key in entries if key.startswith(head)],
    )
    return entries
