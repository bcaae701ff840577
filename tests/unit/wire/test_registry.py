"""Where replicas listen, as it stands in Ray's key-value store."""

from __future__ import annotations

from ray.experimental import internal_kv

from deployments.wire import registry
from deployments.wire.registry import Address

ADDRESS = Address("10.0.0.7", 40_123, bytes(range(32)), 3)


def test_a_replica_is_found_until_it_withdraws(kept):
    registry.publish("app#encoder#one", ADDRESS)
    assert registry.find("app#encoder#one") == ADDRESS
    assert registry.find("app#encoder#two") is None
    registry.withdraw("app#encoder#one")
    assert kept == {}


def test_a_store_that_is_away_does_not_hold_up_a_replica_that_stops(monkeypatch):
    def away(*_, **__):
        raise ConnectionError("the head node is away")

    monkeypatch.setattr(internal_kv, "_internal_kv_del", away)
    registry.withdraw("app#encoder#one")
