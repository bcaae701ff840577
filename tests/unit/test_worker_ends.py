"""How a worker ends: on demand, or by an error that nobody must overlook."""

from __future__ import annotations

import threading

import pytest

from deployments.embedding.errors import EmbedfleetError
from deployments.embedding.lanes import Lane

from .fake_engine import FakeEngine
from .working import PATIENCE_S, Watcher, check_answer, hold, submit, until, working

POISON = 666


def raise_key_error() -> None:
    raise KeyError("broken metrics")


class ShortEngine(FakeEngine):
    """Answers with one vector too few once it is poisoned."""

    def forward(self, batch):
        return super().forward(batch)[: -1 if POISON in batch.ids else None]


def dying(kind):
    """Returns an engine and an observer, one of which ends the loop at the poison."""
    if kind == "exit":
        return FakeEngine(poison=POISON, error=lambda: SystemExit("gone")), None
    if kind == "interrupt":
        return FakeEngine(poison=POISON, error=KeyboardInterrupt), None
    return ShortEngine(), None


@pytest.mark.parametrize("kind", ["exit", "interrupt", "too few vectors"])
def test_a_dead_loop_is_seen_by_everyone(kind):
    engine, observer = dying(kind)
    with working(engine, budget=2, observer=observer) as worker:
        hold(worker, engine)
        running, waiting = submit(worker, [POISON, 1]), submit(worker, [3, 3])
        offline = submit(worker, [4, 4], lane=Lane.OFFLINE)
        engine.release.set()
        for call in (running, waiting, offline):
            with pytest.raises(EmbedfleetError, match=r"loop has died|shutting down"):
                call.result(PATIENCE_S)
        worker.stop()
        assert not worker.alive
        with pytest.raises(EmbedfleetError, match="the engine's loop has ended"):
            submit(worker, [5])


def test_an_observer_that_breaks_ends_the_loop_after_the_answer():
    observer = Watcher(on_pass=raise_key_error)
    with working(FakeEngine(), observer=observer) as worker:
        check_answer(submit(worker, [2]), [2])
        worker.stop()
        with pytest.raises(EmbedfleetError, match="broken metrics"):
            submit(worker, [3])


def test_stop_lets_the_running_pass_end_and_answers_what_waits():
    engine = FakeEngine()
    with working(engine) as worker:
        running = hold(worker, engine)
        waiting = [submit(worker, [2], [3], lane=lane) for lane in Lane]
        worker.stop(timeout_s=0)
        with pytest.raises(EmbedfleetError, match="shutting down"):
            submit(worker, [4])
        engine.release.set()
        check_answer(running, [1])
        for call in waiting:
            with pytest.raises(EmbedfleetError, match="shutting down"):
                call.result(PATIENCE_S)
    assert engine.passes == [[1]]


def test_stop_of_an_idle_worker_returns_at_once():
    with working(FakeEngine()) as worker:
        assert worker.alive
        worker.stop()
        assert not worker.alive


def test_the_answers_thread_is_not_made_by_the_engines():
    with working(FakeEngine()):
        assert any(thread.name.startswith("answers") for thread in threading.enumerate())


def test_answers_that_cannot_be_told_end_the_worker_and_leave_no_call_open():
    watcher = Watcher()
    watcher.waiting = lambda left: raise_key_error()
    with working(FakeEngine(), observer=watcher) as worker:
        check_answer(submit(worker, [2]), [2])
        until(lambda: not worker.alive)
        with pytest.raises(EmbedfleetError, match="broken metrics"):
            submit(worker, [3])
