"""How many threads a pass has: its own, or all of them for one text that is alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from deployments.core.engine.cpu.pass_threads import PassThreads
from deployments.core.engine.cpu.priority import can_give_way, give_way


class Machine:
    """Takes so many seconds for a text: its tokens over the threads, and a cost for each thread."""

    def __init__(self, a_thread_s: float = 0.0, a_token_s: float = 1e-3) -> None:
        self.a_thread_s, self.a_token_s = a_thread_s, a_token_s
        self.asked: list[tuple[int, int]] = []

    def __call__(self, tokens: int, threads: int) -> float:
        self.asked.append((tokens, threads))
        return self.a_token_s * tokens / threads + self.a_thread_s * threads


def given(threads: PassThreads, texts: int, tokens: int) -> int:
    return threads.run(texts, tokens, lambda count: count)


def lent(most: int, max_tokens: int = 512, each: int = 1, **machine: float) -> PassThreads:
    threads = PassThreads(each)
    threads.lend(most, max_tokens, Machine(**machine))
    return threads


def test_before_any_are_lent_each_pass_has_its_own():
    threads = PassThreads(2)
    assert [given(threads, 1, 16), given(threads, 1, 4_000), given(threads, 9, 100)] == [2, 2, 2]


def test_one_text_alone_has_all_that_make_it_faster():
    threads = lent(6)
    assert given(threads, texts=1, tokens=100) == 6
    assert given(threads, texts=2, tokens=100) == 1


def test_a_text_beside_another_pass_has_its_own_threads():
    threads = lent(8)
    assert threads.run(3, 50, lambda count: (count, given(threads, 1, 100))) == (1, 1)
    assert given(threads, texts=1, tokens=100) == 8


@pytest.mark.skipif(not can_give_way(), reason="threads have no priorities of their own here")
def test_a_text_that_gives_way_is_lent_nothing():
    threads = lent(8)

    def offline() -> int:
        give_way({threading.get_native_id()})
        return given(threads, texts=1, tokens=100)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(offline).result() == 1
    assert given(threads, texts=1, tokens=100) == 8


def test_a_pass_that_failed_has_ended():
    threads = lent(8)

    def fails(_: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        threads.run(1, 100, fails)
    assert given(threads, texts=1, tokens=100) == 8


def test_threads_that_gain_too_little_stay_with_the_others():
    threads = lent(8, a_token_s=2e-4)  # 64 tokens: 12.8, 6.4, 3.2, 1.6 ms
    assert [given(threads, 1, tokens) for tokens in (1, 16, 63, 64, 4_000)] == [1, 1, 1, 4, 8]


def test_short_texts_are_lent_nothing_whatever_a_start_measures():
    threads = lent(2, a_token_s=1.0)
    assert [given(threads, 1, tokens) for tokens in (1, 12, 63)] == [1, 1, 1]


class Clock:
    """Advances by what a pass takes with the threads that it is given."""

    def __init__(self):
        self.now, self.seconds, self.given = 0.0, {1: 0.020, 2: 0.012}, []

    def __call__(self):
        return self.now

    def compute(self, count):
        self.given.append(count)
        self.now += self.seconds[count]


@pytest.mark.parametrize(
    ("at_start", "really", "best"),
    [
        ({1: 0.020, 2: 0.012}, {1: 0.012, 2: 0.045}, 1),  # a moment in which two threads did well
        ({1: 0.020, 2: 0.080}, {1: 0.020, 2: 0.012}, 2),  # one in which the other core was busy
        ({1: 0.020, 2: 0.012}, {1: 0.020, 2: 0.012}, 2),
        ({1: 0.012, 2: 0.011}, {1: 0.012, 2: 0.011}, 1),
    ],
)
def test_what_a_start_measured_is_corrected_by_the_passes_that_run(at_start, really, best):
    clock = Clock()
    threads = PassThreads(1, clock)
    threads.lend(2, 128, lambda tokens, count: at_start[count])
    clock.seconds = really
    for _ in range(2_000):
        threads.run(1, 64, clock.compute)
    assert clock.given[-300:].count(best) >= 290


def test_a_wrong_choice_is_left_after_a_few_passes():
    clock = Clock()
    threads = PassThreads(1, clock)
    threads.lend(2, 128, lambda tokens, count: {1: 0.020, 2: 0.012}[count])
    clock.seconds = {1: 0.012, 2: 0.045}
    for _ in range(10):
        threads.run(1, 64, clock.compute)
    assert clock.given[5:] == [1] * 5


def test_where_threads_only_cost_none_are_lent():
    assert given(lent(8, a_thread_s=0.02, a_token_s=1e-5), texts=1, tokens=100) == 1


@pytest.mark.parametrize(
    ("each", "most", "counts"), [(1, 6, {1, 2, 4, 6}), (3, 8, {3, 6, 8}), (2, 2, set())]
)
def test_the_numbers_of_threads_that_are_tried(each, most, counts):
    machine, threads = Machine(), PassThreads(each)
    threads.lend(most, 512, machine)
    assert {count for _, count in machine.asked} == counts


def test_no_text_of_a_trial_is_longer_than_the_model_s():
    short, tiny = Machine(), Machine()
    PassThreads(1).lend(2, 100, short)
    PassThreads(1).lend(2, 8, tiny)
    assert {size for size, _ in short.asked} == {64}
    assert tiny.asked == []


def test_long_passes_are_not_tried_again_and_longer_ones_not_at_all():
    machine, threads = Machine(a_token_s=0.003), PassThreads(1)
    threads.lend(4, 4_000, machine)
    assert {size for size, _ in machine.asked} == {64, 256}
    assert machine.asked.count((64, 1)) > machine.asked.count((256, 1)) == 1
    assert given(threads, texts=1, tokens=4_000) == 4


def test_the_first_of_several_has_all_and_the_others_their_own():
    threads = lent(8)
    actual = threads.run(1, 100, lambda first: [first, *(given(threads, 1, 100) for _ in "two")])
    assert actual == [8, 1, 1, 1]
    assert given(threads, texts=1, tokens=100) == 8


def test_one_thread_computes_all_that_has_several():
    ours, threads = threading.get_ident(), lent(8)
    here, there = [threads.run(n, 100, lambda _: threading.get_ident()) for n in (2, 1)]
    assert here == ours != there
    with ThreadPoolExecutor(1) as other:
        assert other.submit(threads.run, 1, 100, lambda _: threading.get_ident()).result() == there
