"""Several passes at once over one engine."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments.core.batch import TokenBatch
from deployments.core.engine.cpu.priority import can_give_way
from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane
from tests.support.batching import PATIENCE_S, check_answer, hold, submit, until, working
from tests.support.fake_engine import FakeEngine

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
    with working(Meeting(), BUDGET, streams=2) as batcher:
        calls = [[[n] * 4, [n + 1] * 4] for n in range(20, 28, 2)]
        for answer, texts in [(submit(batcher, *texts), texts) for texts in calls]:
            check_answer(answer, *texts)


def test_a_hung_pass_is_seen_while_others_go_on():
    engine = FakeEngine()
    with working(engine, BUDGET, streams=2) as batcher:
        hung = hold(batcher, engine)
        check_answer(submit(batcher, [2] * 4), [2] * 4)
        before = batcher.pass_s
        check_answer(submit(batcher, [3] * 4), [3] * 4)
        assert batcher.pass_s > before > 0
        engine.release.set()
        check_answer(hung, [1])


class Priorities(FakeEngine):
    """Keeps the priority of the thread that computes each text."""

    def __init__(self):
        super().__init__()
        self.niceness: dict[int, int] = {}

    def forward(self, batch):
        for text in range(len(batch)):
            self.niceness[int(batch.text(text)[0])] = os.getpriority(os.PRIO_PROCESS, 0)
        return super().forward(batch)


def test_online_texts_do_not_wait_for_offline_passes():
    engine = FakeEngine()
    with working(engine, BUDGET, preempt=True) as batcher:
        engine.held = True
        held = submit(batcher, [1] * 4, lane=Lane.OFFLINE)
        assert engine.entered.wait(PATIENCE_S)
        engine.held = False
        waiting = submit(batcher, [2] * 4, lane=Lane.OFFLINE)
        check_answer(submit(batcher, [3] * 4), [3] * 4)
        with pytest.raises(TimeoutError):
            waiting.result(0.05)
        engine.release.set()
        check_answer(held, [1] * 4)
        check_answer(waiting, [2] * 4)


@pytest.mark.skipif(not can_give_way(), reason="threads have no priorities of their own here")
@pytest.mark.parametrize(("preempt", "less"), [(True, 10), (False, 0)])
def test_only_the_threads_of_offline_texts_give_way(preempt, less):
    own = os.getpriority(os.PRIO_PROCESS, 0)
    engine = Priorities()
    with working(engine, BUDGET, streams=2, preempt=preempt) as batcher:
        check_answer(submit(batcher, [1] * 4), [1] * 4)
        check_answer(submit(batcher, [2] * 4, lane=Lane.OFFLINE), [2] * 4)
    assert engine.niceness == {1: own, 2: min(19, own + less)}


def test_a_trial_waits_for_offline_passes_and_these_for_it():
    engine = FakeEngine()
    with working(engine, BUDGET, streams=2, preempt=True) as batcher:
        engine.held = True
        held = submit(batcher, [1] * 4, lane=Lane.OFFLINE)
        assert engine.entered.wait(PATIENCE_S)
        engine.entered.clear()
        begun: list[int | None] = []
        trial = batcher.submit(TokenBatch.from_lists([[5]]), Lane.OFFLINE, 60.0, begun.append)
        later = submit(batcher, [3] * 4, lane=Lane.OFFLINE)
        assert not engine.entered.wait(0.05)
        engine.release.set()
        check_answer(held, [1] * 4)
        check_answer(trial, [5])
        check_answer(later, [3] * 4)
        assert begun == [0, None]


def test_a_trial_runs_alone():
    engine = FakeEngine()
    with working(engine, BUDGET, streams=2) as batcher:
        first = hold(batcher, engine)
        begun: list[int | None] = []
        trial = batcher.submit(TokenBatch.from_lists([[5]]), Lane.ONLINE, 60.0, begun.append)
        with pytest.raises(TimeoutError):
            trial.result(0.05)
        assert begun == []
        engine.release.set()
        check_answer(first, [1])
        check_answer(trial, [5])
        assert begun == [0, None]


@pytest.mark.parametrize("preempt", [False, True])
def test_all_are_answered_whoever_comes_at_once(preempt):
    """Both lanes and trials, from several threads: no thread sleeps while it has work."""
    with working(FakeEngine(), BUDGET, streams=2, preempt=preempt) as batcher:

        def ask(number: int) -> None:
            texts = [[number] * (1 + number % BUDGET)] * (1 + number % 3)
            if number % 5 == 0:
                batch = TokenBatch.from_lists(texts)
                answer = batcher.submit(batch, Lane.ONLINE, 60.0, lambda row: None)
            else:
                answer = submit(batcher, *texts, lane=[*Lane][number % 2])
            if number % 7 == 0:
                time.sleep(0.001)  # so that the lanes run empty now and then
            check_answer(answer, *texts)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(1, 601)))


def test_one_dead_loop_ends_all():
    engine = FakeEngine(poison=POISON, error=lambda: SystemExit("gone"))
    with working(engine, BUDGET, streams=2) as batcher:
        running = hold(batcher, engine)
        with pytest.raises(EmbedfleetError, match="loop has died"):
            submit(batcher, [POISON] * 4).result(PATIENCE_S)
        until(lambda: not batcher.alive)
        with pytest.raises(EmbedfleetError, match="has ended"):
            submit(batcher, [3])
        engine.release.set()
        check_answer(running, [1])  # what was under way is answered
