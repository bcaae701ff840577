"""The loop around an engine: order, drops, refusals, and errors that stay with their text."""

from __future__ import annotations

import threading

import pytest
import torch

from deployments.core.batch import TokenBatch
from deployments.core.batching.lanes import DropReason
from deployments.core.errors import DeadlineExceeded, Overloaded
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import Share
from tests.support.batching import (
    PATIENCE_S,
    Watcher,
    check_answer,
    error_of,
    hold,
    submit,
    working,
)
from tests.support.fake_engine import FakeEngine, vector_of

POISON = 666


def test_answers_stand_in_the_order_of_the_texts():
    texts = [[5], [4, 4, 4], [3, 3], [2] * 9, [7], [8, 8, 8, 8]]
    engine = FakeEngine()
    with working(engine) as batcher:
        check_answer(submit(batcher, *texts), *texts)
    assert len(engine.passes) > 1


def test_a_call_without_texts_is_answered_at_once():
    engine = FakeEngine()
    with working(engine) as batcher:
        actual = submit(batcher).result(PATIENCE_S)
    assert (actual.vectors.shape, actual.queued_s, actual.computed_s) == ((0, 4), 0, 0)
    assert engine.passes == []


def test_calls_share_a_pass():
    engine = FakeEngine()
    with working(engine) as batcher:
        hold(batcher, engine)
        calls = [submit(batcher, [number, 0]) for number in range(2, 8)]
        engine.release.set()
        for number, call in enumerate(calls, start=2):
            check_answer(call, [number, 0])
    assert engine.passes == [[1], [2, 3, 4, 5, 6, 7]]


def test_many_threads_each_get_their_own():
    with working(FakeEngine(), budget=8) as batcher:
        answered = []

        def call(number: int) -> None:
            texts = [[number] * (1 + number % 3), [number + 1]]
            check_answer(submit(batcher, *texts), *texts)
            answered.append(number)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert sorted(answered) == list(range(40))


def test_online_goes_before_offline():
    engine = FakeEngine()
    with working(engine, budget=3) as batcher:
        hold(batcher, engine)
        offline = submit(batcher, [8, 0, 0], lane=Lane.OFFLINE)
        online = submit(batcher, [9, 0, 0], lane=Lane.ONLINE)
        engine.release.set()
        check_answer(online, [9, 0, 0])
        check_answer(offline, [8, 0, 0])
    assert engine.passes == [[1], [9], [8]]


def test_a_text_that_breaks_the_engine_takes_only_itself_down():
    engine = FakeEngine(poison=POISON)
    with working(engine) as batcher:
        hold(batcher, engine)
        before, broken = submit(batcher, [2, 2]), submit(batcher, [3, 3], [POISON, 3], [6])
        after = submit(batcher, [4, 4])
        engine.release.set()
        check_answer(before, [2, 2])
        check_answer(after, [4, 4])
        error = error_of(broken, row=1)
        assert str(error) == "the engine failed on a text of 2 tokens: a poisoned text"
        assert broken.result().vectors[[0, 2]].tolist() == [vector_of([3, 3]), vector_of([6])]
        check_answer(submit(batcher, [5]), [5])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError,
        lambda: torch.OutOfMemoryError("CUDA out of memory"),
        lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_text_that_never_fits_is_told_so(error):
    with working(FakeEngine(poison=POISON, error=error)) as batcher:
        error = error_of(submit(batcher, [POISON, 1]))
        assert error.code == "text_failed"
        assert "2 tokens does not fit" in str(error)
        check_answer(submit(batcher, [5]), [5])


def test_a_pass_without_room_is_halved_and_tried_again():
    texts = [[number, 0] for number in range(2, 10)]
    engine = FakeEngine(room=4)
    with working(engine, budget=16) as batcher:
        check_answer(submit(batcher, *texts), *texts)
    sizes = [len(firsts) for firsts in engine.passes]
    assert sizes == [8, 4, 2, 2, 4, 2, 2]


def test_cancelling_drops_what_is_not_computed():
    engine, watcher = FakeEngine(), Watcher()
    with working(engine, observer=watcher) as batcher:
        hold(batcher, engine)
        cancelled, kept = submit(batcher, [7], [7]), submit(batcher, [8])
        assert cancelled.cancel()
        engine.release.set()
        check_answer(kept, [8])
    assert engine.passes == [[1], [8]]
    assert watcher.drops == [(Lane.ONLINE, DropReason.GONE)] * 2


def test_cancelling_during_the_pass_harms_nobody():
    engine = FakeEngine()
    with working(engine) as batcher:
        running = hold(batcher, engine)
        assert running.cancel()
        engine.release.set()
        check_answer(submit(batcher, [8]), [8])


@pytest.mark.parametrize("lane", Lane)
def test_a_deadline_that_passes_in_the_lane_is_the_answer(lane):
    engine, watcher = FakeEngine(), Watcher()
    with working(engine, observer=watcher) as batcher:
        hold(batcher, engine)
        late, kept = submit(batcher, [7], lane=lane, timeout_s=0), submit(batcher, [8])
        engine.release.set()
        assert isinstance(error_of(late), DeadlineExceeded)
        check_answer(kept, [8])
    assert [8] in engine.passes
    assert [7] not in engine.passes
    assert watcher.drops == [(lane, DropReason.EXPIRED)]


def test_a_full_lane_refuses_and_says_when_to_come_back():
    engine, watcher = FakeEngine(), Watcher()
    with working(engine, budget=16, max_wait_s=0.001, observer=watcher) as batcher:
        hold(batcher, engine)
        waiting = [submit(batcher, [2] * 10) for _ in range(6)]  # 60 of 4 × 16 tokens
        with pytest.raises(Overloaded, match="online lane is full: 60 tokens") as refused:
            submit(batcher, [3] * 5, [3] * 6)
        assert refused.value.retry_after_s == pytest.approx(60 / 100.0)
        fits = submit(batcher, [3] * 4)
        assert batcher.waiting(Lane.ONLINE) == (7, 64)
        engine.release.set()
        for call in waiting:
            check_answer(call, [2] * 10)
        check_answer(fits, [3] * 4)
    assert watcher.refusals == [(Lane.ONLINE, 2)]


def test_offline_work_never_makes_online_refused():
    engine = FakeEngine()
    with working(engine, max_wait_s=0.001) as batcher:
        hold(batcher, engine)
        for _ in range(4):
            submit(batcher, [2] * 16, lane=Lane.OFFLINE)
        with pytest.raises(Overloaded, match="offline"):
            submit(batcher, [3] * 16, lane=Lane.OFFLINE)
        online = submit(batcher, [3])
        engine.release.set()
        check_answer(online, [3])


def test_an_empty_lane_takes_a_call_of_any_size():
    with working(FakeEngine(), max_wait_s=0.001) as batcher:
        texts = [[2] * 16] * 50
        check_answer(submit(batcher, *texts), *texts)


@pytest.mark.parametrize(("max_wait_s", "taken"), [(0.1, 64), (1.0, 100), (3.0, 300)])
def test_the_bound_of_a_lane_is_a_time(max_wait_s, taken):
    engine = FakeEngine()
    with working(engine, budget=16, max_wait_s=max_wait_s, tokens_per_s=100) as batcher:
        hold(batcher, engine)
        for _ in range(taken):
            submit(batcher, [2])
        with pytest.raises(Overloaded):
            submit(batcher, [2])


def test_a_long_call_that_fills_a_lane_does_not_make_a_short_one_refused():
    engine = FakeEngine()
    with working(engine, budget=16, max_wait_s=1.0, tokens_per_s=100) as batcher:
        hold(batcher, engine)
        long = submit(batcher, *[[2] * 10] * 50)  # 500 tokens, 5 s, and the lane is bound to 1 s
        short = submit(batcher, [3] * 4)
        with pytest.raises(Overloaded):
            submit(batcher, *[[2] * 10] * 50)
        engine.release.set()
        check_answer(short, [3] * 4)
        check_answer(long, *[[2] * 10] * 50)
    assert 3 in engine.passes[1]  # the first pass after the one that was running


def test_a_lane_that_one_tenant_has_filled_takes_the_calls_of_another():
    engine, call = FakeEngine(), TokenBatch.from_lists([[1] * 10])
    with working(engine, budget=10, max_wait_s=0.6) as batcher:
        calls = [hold(batcher, engine)]
        big, small = Share("big"), Share("small")
        calls += [batcher.submit(call, Lane.ONLINE, 60.0, share=big) for _ in range(6)]
        with pytest.raises(Overloaded):
            batcher.submit(call, Lane.ONLINE, 60.0, share=big)
        calls.append(batcher.submit(call, Lane.ONLINE, 60.0, share=small))
        engine.release.set()
        for future in calls:
            future.result(PATIENCE_S)


def test_the_observer_sees_each_pass_once_and_what_is_left():
    watcher = Watcher()
    with working(FakeEngine(), budget=4, observer=watcher) as batcher:
        submit(batcher, [1] * 4, [2] * 3, [3]).result(PATIENCE_S)
    assert sorted(length for lengths in watcher.passes for length in lengths) == [1, 3, 4]
    assert watcher.left == dict.fromkeys(Lane, (0, 0))


def test_results_are_delivered_beside_the_next_pass_and_at_once_if_none_waits():
    engine = FakeEngine()
    with working(engine, budget=1) as batcher:
        first = hold(batcher, engine)
        last = submit(batcher, [2])
        threads = {}
        for name, call in (("first", first), ("last", last)):
            call.add_done_callback(
                lambda _, name=name: threads.update({name: threading.current_thread().name})
            )
        engine.release.set()
        check_answer(first, [1])
        check_answer(last, [2])
    assert threads == {"first": "answers_0", "last": "engine-online-offline-0"}
