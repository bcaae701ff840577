"""A refusal holds for a moment, for what is as large."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.errors import DeadlineExceeded, Overloaded
from deployments.core.models.token_bounds import estimate_tokens
from deployments.core.routing.overload import (
    ConcurrencyLimiter,
    LastRefusal,
    refuse_if_hopeless,
)

FULL = Overloaded("900 tokens already wait", None, 10.0)


@pytest.fixture
def refusal():
    actual = LastRefusal()
    actual.note(100, FULL, now=50.0)
    return actual


def test_nothing_was_refused_yet():
    LastRefusal().repeat(10**6, now=0.0)


@pytest.mark.parametrize("tokens", [100, 5_000])
def test_as_large_is_refused_again_with_the_time_that_is_left(refusal, tokens):
    with pytest.raises(Overloaded, match="900 tokens") as again:
        refusal.repeat(tokens, now=50.1)
    assert again.value.retry_after_s == pytest.approx(9.9)


def test_smaller_may_still_fit(refusal):
    refusal.repeat(99, now=50.1)


def test_it_is_over_after_a_moment(refusal):
    refusal.repeat(100, now=50.21)


def test_a_backlog_that_is_soon_gone_is_looked_at_again_sooner():
    refusal = LastRefusal()
    refusal.note(100, Overloaded("full", None, 1.0), now=0.0)
    with pytest.raises(Overloaded):
        refusal.repeat(100, now=0.01)
    refusal.repeat(100, now=0.03)


def test_a_larger_one_does_not_let_the_smaller_through(refusal):
    refusal.note(900, FULL, now=50.1)
    with pytest.raises(Overloaded):
        refusal.repeat(100, now=50.15)


@given(st.lists(st.tuples(st.integers(1, 1_000), st.floats(0, 1)), max_size=20))
def test_repeating_does_not_prolong_it(requests):
    refusal = LastRefusal()
    refusal.note(1, FULL, now=0.0)
    for tokens, now in sorted(requests, key=lambda r: r[1]):
        if now < 0.2:
            with pytest.raises(Overloaded):
                refusal.repeat(tokens, now)
        else:
            refusal.repeat(tokens, now)


def limiter_of(count, most=10, now=0.0):
    limiter = ConcurrencyLimiter(most)
    for _ in range(count):
        limiter.enter(now)
    return limiter


def test_as_many_as_are_allowed_are_let_in():
    limiter = limiter_of(10)
    with pytest.raises(Overloaded, match="10 requests are under way in this router"):
        limiter.enter(1.0)
    limiter.leave(2.0)
    limiter.enter(2.0)


@pytest.mark.parametrize(("leave_every_s", "comes_back_s"), [(0.5, 5.0), (1.0, 10.0), (2.0, 20.0)])
def test_the_time_to_come_back_is_what_those_inside_will_take(leave_every_s, comes_back_s):
    limiter, now = limiter_of(10), 0.0
    while now < 30.0:
        now += leave_every_s
        limiter.leave(now)
        limiter.enter(now)
    with pytest.raises(Overloaded) as refused:
        limiter.enter(now)
    assert refused.value.retry_after_s == pytest.approx(comes_back_s, rel=0.3)


def test_many_that_leave_within_a_moment_are_told_by_the_last_of_them():
    limiter = limiter_of(100, most=100)
    for number in range(1_000):
        limiter.leave(number / 1_000)
        limiter.enter(number / 1_000)
    with pytest.raises(Overloaded) as refused:
        limiter.enter(1.0)
    assert refused.value.retry_after_s == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(("most", "comes_back_s"), [(10, 50.0), (256, 60.0)])
def test_where_nothing_leaves_the_time_is_bounded(most, comes_back_s):
    with pytest.raises(Overloaded) as refused:
        limiter_of(most + 1, most=most)
    assert refused.value.retry_after_s == comes_back_s


@pytest.mark.parametrize(
    ("tokens", "tokens_per_s", "left_s", "is_refused"),
    [
        (10_000, 100.0, 60.0, False),  # 100 s: the estimates may be wrong by that much
        (12_000, 100.0, 60.0, False),
        (12_100, 100.0, 60.0, True),
        (10**9, None, 60.0, False),
        (1, 100.0, 0.0, True),
        (0, 100.0, 60.0, False),
    ],
)
def test_what_cannot_be_done_in_time_is_refused_at_once(tokens, tokens_per_s, left_s, is_refused):
    if not is_refused:
        refuse_if_hopeless(tokens, tokens_per_s, left_s)
        return
    with pytest.raises(DeadlineExceeded, match=r"limits\.request_timeout_s"):
        refuse_if_hopeless(tokens, tokens_per_s, left_s)


def test_cut_texts_count_as_much_as_is_left_of_them():
    assert estimate_tokens(["a" * 8_000_000, "b"], limit=512) == 512 + estimate_tokens(["b"])
