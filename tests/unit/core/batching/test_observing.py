"""When what happens in a batcher is told to whoever records it."""

from __future__ import annotations

import threading
import time

import pytest

from deployments.core.batching import observing
from deployments.core.batching.lanes import DropReason, MicroBatch, QueuedText
from deployments.core.batching.observing import DeferredObserver, Observer, Pass
from deployments.core.lane import Lane
from tests.support.batching import PATIENCE_S, Watcher, until

NOTHING = MicroBatch([], [])
ROWS = [(0, 3, Lane.ONLINE), (1, 7, Lane.OFFLINE), (2, 5, Lane.ONLINE)]
LEFT = {Lane.ONLINE: (1, 2), Lane.OFFLINE: (3, 4)}


@pytest.fixture
def watcher():
    return Watcher()


@pytest.fixture
def notes(watcher):
    notes = DeferredObserver(watcher, lambda: LEFT)
    yield notes
    notes.close(PATIENCE_S)


def raise_key_error(*_):
    raise KeyError("broken")


def test_a_pass_is_told_when_the_next_begins(watcher, monkeypatch):
    monkeypatch.setattr(observing, "_IDLE_S", 1e3)
    notes = DeferredObserver(watcher, lambda: LEFT)
    notes.ran(NOTHING, 0.0, 1.0)
    time.sleep(0.05)
    assert watcher.passes == []
    notes.pass_begins()
    until(lambda: watcher.left == LEFT)
    assert watcher.passes == [[]]
    notes.close(PATIENCE_S)


def test_without_another_pass_it_is_told_after_a_moment(watcher, notes):
    notes.dropped(Lane.ONLINE, DropReason.GONE)
    notes.refused(Lane.OFFLINE, 2)
    until(lambda: watcher.refusals == [(Lane.OFFLINE, 2)])
    assert watcher.drops == [(Lane.ONLINE, DropReason.GONE)]


def test_the_backlog_is_told_though_nothing_happens(watcher, notes):
    until(lambda: watcher.left == LEFT)
    watcher.left.clear()
    until(lambda: watcher.left == LEFT)


def test_closing_tells_the_rest_in_order(watcher, monkeypatch):
    monkeypatch.setattr(observing, "_IDLE_S", 1e3)
    notes = DeferredObserver(watcher, lambda: LEFT)
    for texts in range(50):
        notes.refused(Lane.ONLINE, texts)
    notes.close(PATIENCE_S)
    assert watcher.refusals == [(Lane.ONLINE, texts) for texts in range(50)]


def test_what_raises_costs_only_itself(watcher, monkeypatch, caplog):
    monkeypatch.setattr(observing, "_IDLE_S", 1e3)
    watcher.dropped = raise_key_error
    notes = DeferredObserver(watcher, lambda: LEFT)
    for texts in range(20):
        notes.dropped(Lane.ONLINE, DropReason.GONE)
        notes.refused(Lane.ONLINE, texts)
    notes.close(PATIENCE_S)
    assert len(watcher.refusals) == 20
    assert watcher.left == LEFT
    assert caplog.text.count("metrics cannot be recorded") == 1


def test_an_observer_that_hangs_costs_no_memory(watcher, monkeypatch):
    monkeypatch.setattr(observing, "_MAX_EVENTS", 5)
    monkeypatch.setattr(observing, "_IDLE_S", 1e3)
    notes = DeferredObserver(watcher, lambda: LEFT)
    for texts in range(20):
        notes.refused(Lane.ONLINE, texts)
    notes.close(PATIENCE_S)
    assert [texts for _, texts in watcher.refusals] == [15, 16, 17, 18, 19]


def test_a_pass_is_what_there_is_to_record():
    texts = [QueuedText(None, row, tokens, lane, 1.0 + row, 9.0) for row, tokens, lane in ROWS]
    done = Pass.of(MicroBatch(texts, [], pads=False), started=4.0, seconds=0.5)
    assert done == Pass((3, 7, 5), 15, 0.5, {Lane.ONLINE: 3.0, Lane.OFFLINE: 2.0})


def test_an_observer_that_hangs_is_not_waited_for(watcher):
    release = threading.Event()
    watcher.waiting = lambda left: release.wait(PATIENCE_S)
    notes = DeferredObserver(watcher, lambda: LEFT)
    notes.pass_begins()
    started = time.monotonic()
    notes.close(0.05)
    assert time.monotonic() - started < PATIENCE_S / 2
    release.set()


def test_nobody_takes_all_of_it():
    notes = DeferredObserver(Observer(), lambda: LEFT)
    notes.ran(NOTHING, 0.0, 1.0)
    notes.dropped(Lane.ONLINE, DropReason.GONE)
    notes.refused(Lane.ONLINE, 1)
    notes.close(PATIENCE_S)
    assert not notes._has_failed
