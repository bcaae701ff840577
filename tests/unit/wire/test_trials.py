"""What is noted of a trial, and that nothing of it stays once it is over."""

from __future__ import annotations

import threading

import pytest
from ray.experimental import internal_kv

from deployments.wire import trials
from deployments.wire.trials import ClusterRecord
from tests.support.batching import PATIENCE_S


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


def away(*_, **__):
    raise ConnectionError("the head node is away")


@pytest.fixture(params=["raises", "hangs"])
def store_is_away(request, monkeypatch):
    """Ray's key-value store while the head node is away; writes end with the test."""
    back = threading.Event()
    waits = away if request.param == "raises" else lambda *_, **__: back.wait(PATIENCE_S) and None
    for name in ("put", "get", "del", "list"):
        monkeypatch.setattr(internal_kv, f"_internal_kv_{name}", waits)
    monkeypatch.setattr(trials, "_PATIENCE_S", 0.01)
    yield
    back.set()


async def test_nobody_waits_for_a_store_that_is_away(store_is_away):
    record = ClusterRecord("tiny")
    assert await record.blocked(["text"]) == []
    assert await record.last_begun("t") is None
    await record.block("t", "text")
    for row in (3, None):
        with pytest.raises((ConnectionError, TimeoutError)):
            trials.begin("t", row)


async def test_models_are_kept_apart(kept):
    await ClusterRecord("tiny").block("t", "killer")
    assert await ClusterRecord("large").blocked(["killer"]) == []
