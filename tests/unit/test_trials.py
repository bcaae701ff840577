"""What is noted of a trial, and that nothing of it stays once it is over."""

from __future__ import annotations

import pytest

from deployments import trials
from deployments.trials import ClusterRecord


@pytest.fixture
def kept(monkeypatch):
    """Ray's key-value store, as a dictionary."""
    found = {}
    store = trials.internal_kv
    monkeypatch.setattr(
        store, "_internal_kv_put", lambda key, value, **_: found.update({key: value.encode()})
    )
    monkeypatch.setattr(store, "_internal_kv_get", lambda key, **_: found.get(key))
    monkeypatch.setattr(store, "_internal_kv_del", lambda key, **_: found.pop(key, None))
    monkeypatch.setattr(
        store,
        "_internal_kv_list",
        lambda head, **_: [key.encode() for key in found if key.startswith(head)],
    )
    return found


async def test_the_row_that_was_begun_is_known_until_its_pass_ends(kept):
    record = ClusterRecord("tiny")
    trials.begin("t", 3)
    assert await record.last_begun("t") == 3
    trials.begin("t", None)
    assert await record.last_begun("t") is None
    assert kept == {}


async def test_a_block_ends_its_trial(kept):
    record = ClusterRecord("tiny")
    trials.begin("t", 0)
    await record.block("t", "killer")
    assert list(kept) == ["killer/tiny/killer"]
    assert await record.blocked(["another", "killer"]) == ["killer"]


async def test_models_are_kept_apart(kept):
    await ClusterRecord("tiny").block("t", "killer")
    assert await ClusterRecord("large").blocked(["killer"]) == []
