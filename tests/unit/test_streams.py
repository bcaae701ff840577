"""Several passes at once over one engine."""

from __future__ import annotations

import threading

import pytest

from deployments.embedding.batch import TokenBatch
from deployments.embedding.errors import EmbedfleetError
from deployments.embedding.lanes import Lane

from .fake_engine import FakeEngine
from .working import PATIENCE_S, check_answer, hold, submit, until, working

POISON = 666
BUDGET = 4


class Meeting(FakeEngine):
    """Each pass waits until another one runs."""

    def __init__(self):
        super().__init__()
        self.both = threading.Barrier(2)

    def forward(self, batch):
        self.both.wait(PATIENCE_S)
        return super().forward(batch)


def test_passes_run_at_once_and_each_call_gets_its_own():
    with working(Meeting(), BUDGET, streams=2) as worker:
        calls = [[[n] * 4, [n + 1] * 4] for n in range(20, 28, 2)]
        for answer, texts in [(submit(worker, *texts), texts) for texts in calls]:
            check_answer(answer, *texts)


def test_a_hung_pass_is_seen_while_others_go_on():
    engine = FakeEngine()
    with working(engine, BUDGET, streams=2) as worker:
        hung = hold(worker, engine)
        check_answer(submit(worker, [2] * 4), [2] * 4)
        before = worker.pass_s
        check_answer(submit(worker, [3] * 4), [3] * 4)
        assert worker.pass_s > before > 0
        engine.release.set()
        check_answer(hung, [1])


def test_the_reserved_stream_answers_online_texts_while_offline_ones_wait():
    engine = FakeEngine()
    with working(engine, BUDGET, streams=2, reserved=True) as worker:
        engine.held = True
        held = submit(worker, [1] * 4, lane=Lane.OFFLINE)
        assert engine.entered.wait(PATIENCE_S)
        engine.held = False
        waiting = submit(worker, [2] * 4, lane=Lane.OFFLINE)
        check_answer(submit(worker, [3] * 4), [3] * 4)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        engine.release.set()
        check_answer(held, [1] * 4)
        check_answer(waiting, [2] * 4)


def test_offline_texts_are_promised_the_speed_of_their_streams():
    with working(FakeEngine(), BUDGET, tokens_per_s=90.0, streams=3, reserved=True) as worker:
        assert [worker.speed(lane) for lane in (Lane.ONLINE, Lane.OFFLINE)] == [90.0, 60.0]


def test_a_trial_runs_alone():
    engine = FakeEngine()
    with working(engine, BUDGET, streams=2) as worker:
        first = hold(worker, engine)
        begun: list[int | None] = []
        trial = worker.submit(TokenBatch.from_lists([[5]]), Lane.ONLINE, 60.0, begun.append)
        with pytest.raises(TimeoutError):
            trial.result(0.05)
        assert begun == []
        engine.release.set()
        check_answer(first, [1])
        check_answer(trial, [5])
        assert begun == [0, None]


def test_one_dead_loop_ends_all():
    engine = FakeEngine(poison=POISON, error=lambda: SystemExit("gone"))
    with working(engine, BUDGET, streams=2) as worker:
        running = hold(worker, engine)
        with pytest.raises(EmbedfleetError, match="loop has died"):
            submit(worker, [POISON] * 4).result(PATIENCE_S)
        until(lambda: not worker.alive)
        with pytest.raises(EmbedfleetError, match="has ended"):
            submit(worker, [3])
        engine.release.set()
        check_answer(running, [1])  # what was under way is answered
