"""The bucket of tokens per minute: exact with one router, and with several that tell each other."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.core.tenants.bucket import TokenBucket

PER_MINUTE = 6_000  # 100 a second; 300 are held
PER_S = PER_MINUTE / 60


def test_a_full_bucket_gives_what_three_seconds_bring():
    bucket = TokenBucket(PER_MINUTE, 0.0)
    assert bucket.remaining(0.0) == 300
    for _ in range(3):
        assert bucket.wait_s(100, 0.0) == 0
        bucket.take(100, 0.0)
    assert bucket.wait_s(100, 0.0) == pytest.approx(1.0)
    assert bucket.wait_s(100, 0.5) == pytest.approx(0.5)
    assert bucket.wait_s(100, 1.0) == 0


def test_it_holds_no_more_however_long_nobody_calls():
    bucket = TokenBucket(PER_MINUTE, 0.0)
    assert bucket.remaining(1e6) == 300
    assert bucket.full_after_s(1e6) == 0


def test_a_call_that_it_cannot_hold_needs_a_full_one_and_leaves_a_debt():
    bucket = TokenBucket(PER_MINUTE, 0.0)
    bucket.take(1, 0.0)
    assert bucket.wait_s(1_000, 0.0) == pytest.approx(0.01)
    assert bucket.wait_s(1_000, 0.01) == 0
    bucket.take(1_000, 0.01)
    assert bucket.remaining(0.01) == 0
    assert bucket.wait_s(1, 0.01) == pytest.approx(7.01)
    assert bucket.full_after_s(0.01) == pytest.approx(10.0)


def test_what_was_estimated_too_high_is_given_back():
    bucket = TokenBucket(PER_MINUTE, 0.0)
    bucket.take(300, 0.0)
    bucket.take(-200, 0.0)
    assert bucket.remaining(0.0) == 200
    bucket.take(-1_000, 0.0)
    assert bucket.remaining(0.0) == 300


def test_a_clock_that_stands_still_or_goes_back_brings_nothing():
    bucket = TokenBucket(PER_MINUTE, 10.0)
    bucket.take(300, 10.0)
    assert bucket.remaining(5.0) == 0
    assert bucket.remaining(10.5) == 50


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 900)), min_size=1, max_size=200),
    st.integers(600, 60_000),
)
def test_no_minute_sees_more_than_its_limit_and_what_is_held(calls, per_minute):
    bucket, now, admitted = TokenBucket(per_minute, 0.0), 0.0, []
    for pause, tokens in calls:
        now += pause
        if bucket.wait_s(tokens, now) == 0:
            bucket.take(tokens, now)
            admitted.append((now, tokens))
    for start, _ in admitted:
        minute = [tokens for at, tokens in admitted if start <= at < start + 60]
        assert sum(minute) <= 1.05 * per_minute + max(minute)


@given(st.integers(1, 900), st.integers(0, 3_000))
def test_after_the_wait_the_call_is_admitted(tokens, taken):
    bucket = TokenBucket(PER_MINUTE, 0.0)
    bucket.take(taken, 0.0)
    assert bucket.wait_s(tokens, bucket.wait_s(tokens, 0.0) + 1e-6) == 0


@dataclass
class Fleet:
    """Routers that exchange once a second, each at its own moment, as `TenantLimits` does."""

    routers: int
    per_minute: int
    tokens: int
    exchanges: bool = True
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    admitted: list[tuple[float, int]] = field(default_factory=list)

    def __post_init__(self):
        self.buckets = [TokenBucket(self.per_minute, 0.0, 1) for _ in range(self.routers)]
        self.told = [0] * self.routers
        self.heard = [[0] * self.routers for _ in range(self.routers)]

    def run(self, seconds, share):
        """Calls come all the time; ``share`` says by the time how many of them each router gets."""
        events = [(self.rng.random(), "exchange", number) for number in range(self.routers)]
        events.append((0.0, "call", 0))
        heapq.heapify(events)
        while events[0][0] < seconds:
            now, what, number = heapq.heappop(events)
            if what == "exchange":
                self.exchange(number, now)
                heapq.heappush(events, (now + 1.0, what, number))
            else:
                weights = share(now)
                self.call(self.rng.choices(range(self.routers), weights)[0], now)
                # ten times as many as the limit allows
                heapq.heappush(events, (now + 6 * self.tokens / self.per_minute, what, 0))
        return self

    def exchange(self, number, now):
        if not self.exchanges:
            return
        self.told[number] = self.buckets[number].taken
        before, self.heard[number] = self.heard[number], list(self.told)
        others = [n for n in range(self.routers) if n != number]
        news = sum(self.told[n] - before[n] for n in others)
        self.buckets[number].exchange(news, self.routers, now)

    def call(self, number, now):
        if self.buckets[number].wait_s(self.tokens, now) == 0:
            self.buckets[number].take(self.tokens, now)
            self.admitted.append((now, self.tokens))

    def tokens_between(self, start, stop):
        return sum(tokens for at, tokens in self.admitted if start <= at < stop)


SHARES = {
    "evenly": lambda routers: lambda now: [1] * routers,
    "one has nearly all": lambda routers: lambda now: [50] + [1] * (routers - 1),
    "one has all": lambda routers: lambda now: [1] + [0] * (routers - 1),
    "in turns of 5 s": lambda routers: (
        lambda now: [int(now // 5) % routers == n for n in range(routers)]
    ),
}


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("routers", [1, 2, 4])
@pytest.mark.parametrize("tokens", [60, 200, 2_000])
def test_routers_keep_a_limit_together(routers, shares, tokens):
    fleet = Fleet(routers, 60_000, tokens).run(240, SHARES[shares](routers))
    for start in (0, 30, 60, 120, 180):
        assert fleet.tokens_between(start, start + 60) == pytest.approx(60_000, rel=0.1), start


def test_without_an_exchange_two_routers_admit_twice_the_limit():
    """That the test above can fail."""
    fleet = Fleet(2, 60_000, 200, exchanges=False).run(60, SHARES["evenly"](2))
    assert fleet.tokens_between(0, 60) > 1.9 * 60_000


def test_if_the_others_fall_silent_each_keeps_its_share():
    fleet = Fleet(2, 60_000, 200).run(10, SHARES["evenly"](2))
    fleet.exchanges, fleet.admitted = False, []
    fleet.buckets = [TokenBucket(60_000, 0.0, 2) for _ in range(2)]
    fleet.run(120, SHARES["evenly"](2))
    assert fleet.tokens_between(30, 90) == pytest.approx(60_000, rel=0.1)
