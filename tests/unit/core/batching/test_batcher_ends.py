"""How a batcher ends: on demand, or by an error that nobody must overlook."""

from __future__ import annotations

import threading

import pytest

from deployments.core.batching.pending_call import PendingCall
from deployments.core.errors import EmbedfleetError, ModelUnavailable
from deployments.core.lane import Lane
from tests.support.batching import PATIENCE_S, Watcher, check_answer, hold, submit, until, working
from tests.support.fake_engine import FakeEngine

POISON = 666


def raise_key_error() -> None:
    raise KeyError("broken")


class ShortEngine(FakeEngine):
    """Answers with one vector too few once it is poisoned."""

    def forward(self, batch):
        return super().forward(batch)[: -1 if POISON in batch.ids else None]


def dying(kind):
    """Returns an engine that ends the loop at the poison."""
    if kind == "exit":
        return FakeEngine(poison=POISON, error=lambda: SystemExit("gone"))
    if kind == "interrupt":
        return FakeEngine(poison=POISON, error=KeyboardInterrupt)
    return ShortEngine()


@pytest.mark.parametrize("kind", ["exit", "interrupt", "too few vectors"])
def test_a_dead_loop_is_seen_by_everyone(kind):
    engine = dying(kind)
    with working(engine, budget=2) as batcher:
        hold(batcher, engine)
        running, waiting = submit(batcher, [POISON, 1]), submit(batcher, [3, 3])
        offline = submit(batcher, [4, 4], lane=Lane.OFFLINE)
        engine.release.set()
        for call in (running, waiting, offline):
            with pytest.raises(EmbedfleetError, match=r"loop has died|shutting down"):
                call.result(PATIENCE_S)
        batcher.stop()
        assert not batcher.alive
        with pytest.raises(EmbedfleetError, match="the engine's loop has ended"):
            submit(batcher, [5])


def test_a_death_is_told_before_its_calls_are_answered():
    told = []
    engine = FakeEngine(poison=POISON, error=SystemExit)
    with working(engine) as batcher:
        hold(batcher, engine)
        call = submit(batcher, [POISON])
        batcher.on_death = lambda: told.append(call.done())
        engine.release.set()
        with pytest.raises(ModelUnavailable, match="loop has died"):
            call.result(PATIENCE_S)
    assert told == [False]


def test_an_observer_that_breaks_is_logged_once_and_serving_goes_on(caplog):
    observer = Watcher(on_pass=raise_key_error)
    with working(FakeEngine(), observer=observer) as batcher:
        for number in (2, 3, 4):
            check_answer(submit(batcher, [number]), [number])
        until(lambda: "metrics cannot be recorded" in caplog.text)
        batcher.stop()
    assert sorted(observer.passes) == [[1], [1], [1]]
    assert caplog.text.count("metrics cannot be recorded") == 1


def test_stop_lets_the_running_pass_end_and_answers_what_waits():
    engine = FakeEngine()
    with working(engine) as batcher:
        running = hold(batcher, engine)
        waiting = [submit(batcher, [2], [3], lane=lane) for lane in Lane]
        batcher.stop(timeout_s=0)
        with pytest.raises(EmbedfleetError, match="shutting down"):
            submit(batcher, [4])
        engine.release.set()
        check_answer(running, [1])
        for call in waiting:
            with pytest.raises(EmbedfleetError, match="shutting down"):
                call.result(PATIENCE_S)
    assert engine.passes == [[1]]


def test_stop_of_an_idle_worker_returns_at_once():
    with working(FakeEngine()) as batcher:
        assert batcher.alive
        batcher.stop()
        assert not batcher.alive


def test_the_answers_thread_is_not_made_by_the_engines():
    with working(FakeEngine()):
        assert any(thread.name.startswith("answers") for thread in threading.enumerate())


def test_answers_that_cannot_be_told_end_the_worker_and_leave_no_call_open(monkeypatch):
    with working(FakeEngine()) as batcher:
        monkeypatch.setattr(PendingCall, "settle", lambda *_: raise_key_error())
        with pytest.raises(EmbedfleetError, match="broken"):
            submit(batcher, [2]).result(PATIENCE_S)
        until(lambda: not batcher.alive)
        with pytest.raises(EmbedfleetError, match="broken"):
            submit(batcher, [3])
