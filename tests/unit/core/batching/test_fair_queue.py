"""Tenants share a lane by weight, and one that is alone notices nothing."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from operator import attrgetter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.core.batching.lanes import BatchLimits, Lanes
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import Share

ONLINE, OFFLINE = Lane.ONLINE, Lane.OFFLINE
NEVER = float("inf")
A, B, C = Share("a"), Share("b"), Share("c")
PASS = 64  # tokens
PASSES = 6
ENOUGH = PASSES * PASS  # tokens, so that none runs out of texts in the meantime


@dataclass(eq=False)
class Caller:
    gone: bool = False


def lanes_of(budget=PASS, pads=False, speed=NEVER, window=512):
    limits = BatchLimits(budget, budget, window=window, pads=pads)
    return Lanes[Caller](limits, tokens_per_s=speed)


def put(lanes, share, lengths, now=0.0, deadline=NEVER, lane=ONLINE):
    caller = Caller()
    lanes.put(caller, lengths, lane, now, deadline, share=share)
    return caller


def tokens_of(batches):
    """Returns the tokens that each tenant has got."""
    got = Counter()
    for batch in batches:
        for text in batch.texts:
            got[text.tenant] += text.tokens
    return got


PUTS = st.tuples(
    st.sampled_from([A, B, C, Share("a", 2.0)]),
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.sampled_from([0.5, 3.0, NEVER]),
    st.sampled_from(list(Lane)),
)
STEPS = st.lists(PUTS | st.sampled_from(["take", "leave"]), max_size=40)


@given(STEPS, st.booleans(), st.sampled_from([1, 3, 512]), st.sampled_from([20.0, NEVER]))
def test_nothing_is_lost_nothing_comes_twice_and_the_counts_are_exact(steps, pads, window, speed):
    lanes, now = lanes_of(40, pads, speed, window), 0.0
    came, left, callers = Counter(), Counter(), []

    def take():
        for text in lanes.take(now).all_texts:
            left[id(text.owner), text.row] += 1

    for step in steps:
        now += 0.1
        if step == "take":
            take()
        elif step == "leave" and callers:
            callers[len(callers) // 2].gone = True
        elif step != "leave":
            share, lengths, patience, lane = step
            callers.append(put(lanes, share, lengths, now, now + patience, lane))
            came.update((id(callers[-1]), row) for row in range(len(lengths)))
        for lane, queue in lanes._queues.items():
            assert lanes.waiting_tokens(lane) == sum(text.tokens for text in queue)
            assert lanes.waiting_texts(lane) == len(list(queue))
    while lanes:
        take()
    assert left == came
    assert all(not queue.tokens for queue in lanes._queues.values())


class OneQueue:
    """A lane of one tenant: a list sorted by `due`."""

    def __init__(self):
        self.texts = []

    def put(self, texts):
        place = bisect_right(self.texts, texts[0].due, key=attrgetter("due"))
        self.texts[place:place] = texts


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), min_size=1, max_size=30),
    st.sampled_from([20.0, 500.0, NEVER]),
)
def test_the_order_of_one_tenant_is_that_in_which_its_calls_are_due(calls, speed):
    lanes, expected = lanes_of(1, speed=speed), OneQueue()
    for second, lengths in enumerate(calls):
        caller = put(lanes, A, lengths, float(second), second + 60.0)
        expected.put([text for text in lanes._queues[ONLINE] if text.owner is caller])
    order = [lanes.take(0.0).texts[0] for _ in expected.texts]
    assert [(t.owner, t.row) for t in order] == [(t.owner, t.row) for t in expected.texts]


@pytest.mark.parametrize("pads", [True, False])
@pytest.mark.parametrize("lane", Lane)
@pytest.mark.parametrize(
    ("few", "many"), [([8], [8]), ([8], [8] * 50), ([60], [5] * 30), ([5] * 30, [60])]
)
def test_at_ten_times_the_load_two_tenants_get_the_same(pads, lane, few, many):
    lanes = lanes_of(pads=pads)
    for _ in range(100):
        put(lanes, A, few, lane=lane)
        for _ in range(10):
            put(lanes, B, many, lane=lane)
    batches = [lanes.take(0.0) for _ in range(10)]
    got = tokens_of(batches)
    assert abs(got["a"] - got["b"]) <= 2 * PASS, got


@given(
    st.lists(st.sampled_from([0.25, 1.0, 3.0, 8.0]), min_size=2, max_size=5),
    st.integers(1, 40),
)
@settings(max_examples=40)
def test_tenants_get_tokens_by_their_weights(weights, tokens):
    lanes = lanes_of()
    for number, weight in enumerate(weights):
        for _ in range(1 + 9 * number):
            put(lanes, Share(str(number), weight), [tokens] * (1 + ENOUGH // tokens))
    got = tokens_of(lanes.take(0.0) for _ in range(PASSES))
    fair = sum(got.values()) / sum(weights)
    for number, weight in enumerate(weights):
        assert abs(got[str(number)] - fair * weight) <= PASS + tokens


def test_the_flood_of_one_tenant_is_not_the_wait_of_another():
    lanes = lanes_of()
    for _ in range(1_000):
        put(lanes, B, [8] * 8)
    caller = put(lanes, A, [8], now=5.0)
    assert caller in {text.owner for text in lanes.take(5.0).texts}


@settings(max_examples=30)
@given(st.integers(2, 12), st.integers(1, 60), st.sampled_from([0.1, 1.0, 10.0]))
def test_nobody_starves(tenants, tokens, weight):
    """Whatever the others send, a text leaves once each of them has got one of its own."""
    lanes = lanes_of()
    for number in range(tenants):
        put(lanes, Share(f"flood{number}"), [7] * 500)
    caller = put(lanes, Share("a", weight), [tokens])
    passes = 0
    while caller not in {text.owner for text in lanes.take(0.0).texts}:
        passes += 1
        for number in range(tenants):
            put(lanes, Share(f"flood{number}"), [7] * 20)
    assert passes <= 1 + -(-tenants * 7 // PASS)


def test_who_has_been_away_has_saved_nothing_up():
    lanes = lanes_of()
    put(lanes, A, [8])
    put(lanes, B, [8] * 10_000)
    for _ in range(50):
        lanes.take(0.0)
    put(lanes, A, [8] * 1_000)
    got = tokens_of(lanes.take(0.0) for _ in range(10))
    assert abs(got["a"] - got["b"]) <= PASS


def test_who_got_much_while_others_waited_does_not_get_it_again_by_a_pause():
    lanes = lanes_of(pads=True)
    put(lanes, A, [60])
    for _ in range(20):
        put(lanes, B, [3])
    assert tokens_of([lanes.take(0.0)]) == {"a": 60}
    put(lanes, A, [60])
    order = [tokens_of([lanes.take(0.0)]) for _ in range(2)]
    assert [set(got) for got in order] == [{"b"}, {"a"}]


def test_memory_does_not_grow_with_tenants_that_have_gone():
    lanes = lanes_of()
    for number in range(1_000):
        put(lanes, Share(str(number)), [8])
        lanes.take(0.0)
    assert len(lanes._queues[ONLINE]._flows) == 1


@given(
    st.lists(st.integers(1, 40), max_size=60),
    st.lists(st.integers(1, 40), max_size=60),
    st.integers(1, 60),
    st.sampled_from([0.5, 1.0, 4.0]),
)
def test_what_would_leave_before_a_call_is_foreseen(own, others, tokens, weight):
    """Up to one text of each tenant, since texts are not divided."""
    lanes, share = lanes_of(1), Share("a", weight)
    for lengths, owner in ((own, share), (others, B)):
        if lengths:
            put(lanes, owner, lengths)
    before = lanes.tokens_before(tokens, ONLINE, 1.0, NEVER, share=share)
    caller, left = put(lanes, share, [tokens], 1.0), 0
    while (text := lanes.take(1.0).texts[0]).owner is not caller:
        left += text.tokens
    assert abs(before - left) <= 40 + weight * 40 + tokens


def test_a_lane_that_is_full_for_one_tenant_is_open_for_another():
    lanes = lanes_of()
    put(lanes, B, [8] * 10_000)
    assert lanes.tokens_before(8, ONLINE, 1.0, NEVER, share=B) == 80_000
    assert lanes.tokens_before(8, ONLINE, 1.0, NEVER, share=A) <= 8
