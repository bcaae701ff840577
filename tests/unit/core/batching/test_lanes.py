"""Lanes by example: who shares the next pass, who waits, who is dropped. The clock is a number."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from deployments.core.batching.lanes import BatchLimits, DropReason, Lanes
from deployments.core.lane import Lane

ONLINE, OFFLINE = Lane.ONLINE, Lane.OFFLINE
NEVER = float("inf")


@dataclass(eq=False)
class Caller:
    name: str = ""
    gone: bool = False


def lanes_of(budget=100, most=0, patience=2.0, window=512):
    return Lanes[Caller](BatchLimits(budget, most, patience, window=window))


def put(lanes, name, tokens, lane=ONLINE, now=0.0, deadline=NEVER):
    caller = Caller(name)
    lanes.put(caller, tokens, lane, now, deadline)
    return caller


def taken(lanes, now=0.0):
    """Takes a micro-batch; returns (caller, tokens) of each text in its order."""
    return [(text.owner.name, text.tokens) for text in lanes.take(now).texts]


def test_nothing_waits_nothing_is_taken():
    lanes = lanes_of()
    assert not lanes
    assert lanes.take(0.0).texts == []
    assert lanes.take(0.0).cost == 0


def test_rows_and_times_are_those_of_the_call():
    lanes = lanes_of()
    lanes.put(Caller("a"), [7, 5], OFFLINE, now=3.0, deadline=9.0)
    first, second = lanes.take(4.0).texts
    assert [(t.row, t.tokens, t.lane, t.arrived, t.deadline) for t in (first, second)] == [
        (0, 7, OFFLINE, 3.0, 9.0),
        (1, 5, OFFLINE, 3.0, 9.0),
    ]


@pytest.mark.parametrize(
    ("lengths", "budget", "first"),
    [
        ([10], 100, [10]),
        ([200], 100, [200]),  # one text alone may be over the budget
        ([200, 1], 100, [200]),
        ([10, 10, 10], 30, [10, 10, 10]),
        ([10, 10, 10], 29, [10, 10]),
        ([10, 50, 11], 30, [11, 10]),  # the long one would pad the others: 3 × 50
        ([10, 9, 8, 7, 6], 40, [10, 9, 8, 7]),
        ([6, 7, 8, 9, 10], 40, [9, 8, 7, 6]),
        ([8, 12, 4], 24, [12, 8]),  # as near, and longer: what is done is done
        ([8, 13, 4, 3], 24, [8, 4, 3]),
        ([8, 30, 8, 30, 8], 24, [8, 8, 8]),
        ([5, 100, 100, 5], 200, [5, 5]),
    ],
)
def test_the_oldest_and_those_nearest_in_length_share_a_pass(lengths, budget, first):
    lanes = lanes_of(budget)
    put(lanes, "a", lengths)
    assert [tokens for _, tokens in taken(lanes)] == first


def test_padding_is_priced_longest_times_rows():
    lanes = lanes_of(budget=40)
    put(lanes, "a", [10, 1, 1, 1, 1])
    batch = lanes.take(0.0)
    assert [text.tokens for text in batch.texts] == [10, 1, 1, 1]  # 13 tokens, but a price of 40
    assert batch.cost == 40


def test_the_oldest_is_always_in_the_next_pass():
    lanes = lanes_of(budget=20)
    put(lanes, "old", [9])
    put(lanes, "young", [2] * 50)
    assert ("old", 9) in taken(lanes)


def test_online_goes_first():
    lanes = lanes_of(budget=10)
    put(lanes, "offline", [10, 10], OFFLINE)
    put(lanes, "online", [10, 10], ONLINE)
    order = [taken(lanes)[0][0] for _ in range(4)]
    assert order == ["online", "online", "offline", "offline"]


@pytest.mark.parametrize(
    ("online", "offline", "most", "added"),
    [
        ([10], [5, 5, 5], 0, []),
        ([10], [5, 5, 5], 10, []),
        ([10], [5, 5, 5], 20, [5]),
        ([10], [5, 5, 5], 39, [5, 5]),
        ([10], [5, 5, 5], 40, [5, 5, 5]),
        ([10], [90, 4], 100, [4]),  # whoever fits
        ([10], [30], 60, [30]),  # a longer one raises the price of every row
        ([10], [30], 59, []),
        ([10, 10], [4, 12, 4], 48, [4, 12]),  # in order of arrival
    ],
)
def test_offline_tops_up_what_online_leaves(online, offline, most, added):
    lanes = lanes_of(budget=100, most=most)
    put(lanes, "offline", offline, OFFLINE)
    put(lanes, "online", online, ONLINE)
    batch = lanes.take(0.0)
    assert [text.tokens for text in batch.texts if text.lane is ONLINE] == online
    assert [text.tokens for text in batch.texts if text.lane is OFFLINE] == added
    assert batch.cost <= max(most, max(online) * len(online))


def test_a_full_online_pass_is_not_topped_up():
    lanes = lanes_of(budget=100, most=50)
    put(lanes, "offline", [1] * 9, OFFLINE)
    put(lanes, "online", [10] * 6, ONLINE)
    assert taken(lanes) == [("online", 10)] * 6


def test_offline_waits_no_longer_than_its_patience():
    lanes = lanes_of(budget=10, patience=2.0)
    put(lanes, "offline", [10, 10], OFFLINE, now=100.0)
    order = []
    for tenths in range(50):  # an online text is always there
        now = 100.0 + tenths / 10
        put(lanes, "online", [10], ONLINE, now)
        order.append(taken(lanes, now)[0][0])
    assert [i for i, name in enumerate(order) if name == "offline"] == [21, 42]


def test_patience_counts_from_when_there_was_something_to_wait_for():
    lanes = lanes_of(budget=10, patience=2.0)
    put(lanes, "online", [10], ONLINE, now=500.0)
    put(lanes, "offline", [10], OFFLINE, now=500.0)
    assert taken(lanes, 500.0) == [("online", 10)]


@pytest.mark.parametrize("seconds_a_pass", [0.1, 3.0, 100.0])
def test_passes_slower_than_patience_do_not_starve_online(seconds_a_pass):
    lanes = lanes_of(budget=10, patience=2.0)
    put(lanes, "offline", [10] * 20, OFFLINE)
    put(lanes, "online", [10] * 20, ONLINE)
    order = [taken(lanes, i * seconds_a_pass)[0][0] for i in range(20)]
    for one, other in itertools.pairwise(order):
        assert "online" in (one, other)


def test_short_texts_that_top_up_do_not_starve_a_long_one():
    lanes = lanes_of(budget=100, most=20, patience=2.0)
    put(lanes, "long", [100], OFFLINE, now=0.0)
    seen = []
    for second in range(1, 6):
        put(lanes, "short", [2], OFFLINE, now=second)
        put(lanes, "online", [5], ONLINE, now=second)
        seen += taken(lanes, second)
    assert ("long", 100) in seen
    assert ("short", 2) in seen[: seen.index(("long", 100))]


@pytest.mark.parametrize("lane", Lane)
def test_callers_who_left_and_deadlines_that_passed_are_dropped(lane):
    lanes = lanes_of()
    gone = put(lanes, "gone", [1, 2], lane)
    put(lanes, "late", [3], lane, deadline=4.9)
    put(lanes, "just late", [4], lane, deadline=5.0)
    put(lanes, "in time", [5], lane, deadline=5.1)
    gone.gone = True
    batch = lanes.take(5.0)
    assert [text.owner.name for text in batch.texts] == ["in time"]
    assert [(text.owner.name, reason) for text, reason in batch.dropped] == [
        ("gone", DropReason.GONE),
        ("gone", DropReason.GONE),
        ("late", DropReason.EXPIRED),
        ("just late", DropReason.EXPIRED),
    ]
    assert not lanes


def test_a_text_that_left_after_a_look_is_dropped_at_the_next():
    lanes = lanes_of(budget=10)
    put(lanes, "a", [10])
    b = put(lanes, "b", [10])
    assert taken(lanes) == [("a", 10)]
    b.gone = True
    assert [reason for _, reason in lanes.take(0.0).dropped] == [DropReason.GONE]


def test_what_waits_is_counted_by_lane():
    lanes = lanes_of(budget=30)
    put(lanes, "a", [10, 20], ONLINE)
    put(lanes, "b", [7], OFFLINE)
    assert (lanes.waiting_texts(ONLINE), lanes.waiting_tokens(ONLINE)) == (2, 30)
    assert (lanes.waiting_texts(OFFLINE), lanes.waiting_tokens(OFFLINE)) == (1, 7)
    taken(lanes)
    assert (lanes.waiting_texts(ONLINE), lanes.waiting_tokens(ONLINE)) == (1, 20)
    gone = put(lanes, "c", [5], ONLINE)
    gone.gone = True
    taken(lanes)
    assert (lanes.waiting_texts(ONLINE), lanes.waiting_tokens(ONLINE)) == (0, 0)


def test_only_the_oldest_of_a_long_lane_are_looked_at():
    lanes = lanes_of(budget=60, window=3)
    put(lanes, "a", [10, 50, 50, 10, 10])
    passes = [[tokens for _, tokens in taken(lanes)] for _ in range(4)]
    assert passes == [[10], [50], [50], [10, 10]]


def flat_lanes(budget, shared, large=4_096):
    return Lanes[Caller](BatchLimits(budget, shared, large_call=large, pads=False))


def test_without_padding_a_pass_costs_the_sum_of_its_tokens():
    lanes = flat_lanes(budget=40, shared=40)
    put(lanes, "a", [30, 1, 8, 5, 1])
    batch = lanes.take(0.0)
    assert [text.tokens for text in batch.texts] == [30, 1, 8, 1]  # in order, whoever fits
    assert batch.cost == 40


def test_short_online_texts_share_a_pass_with_long_offline_ones():
    lanes = flat_lanes(budget=1_000, shared=500)
    put(lanes, "offline", [150] * 20, OFFLINE)
    put(lanes, "online", [12, 12])
    assert taken(lanes) == [("online", 12)] * 2 + [("offline", 150)] * 3


@pytest.mark.parametrize(("since", "rows"), [(0.0, 3), (0.9, 3), (1.1, 6)])
def test_while_online_texts_come_an_offline_pass_is_short(since, rows):
    lanes = flat_lanes(budget=600, shared=300)
    put(lanes, "online", [5], now=10.0)
    taken(lanes, 10.0)
    put(lanes, "offline", [100] * 20, OFFLINE, now=10.0)
    assert len(taken(lanes, 10.0 + since)) == rows


@pytest.mark.parametrize(
    ("small", "added"),
    [
        ([12], 2),  # up to the shared budget, not to the whole one
        ([12, 88], 2),
        ([200, 200, 200], 0),  # small calls still fill a pass
    ],
)
def test_a_pass_of_small_calls_takes_few_texts_of_a_large_one(small, added):
    lanes = flat_lanes(budget=600, shared=300, large=1_000)
    lanes.tokens_per_s = 1_000.0
    put(lanes, "large", [100] * 20, deadline=1e9)
    put(lanes, "small", small, now=1.0, deadline=1e9)
    assert taken(lanes, 1.0) == [("small", t) for t in small] + [("large", 100)] * added


@pytest.mark.parametrize(("since", "rows"), [(0.0, 3), (0.9, 3), (1.1, 6)])
def test_passes_of_a_large_call_are_short_while_small_ones_come(since, rows):
    lanes = flat_lanes(budget=600, shared=300, large=1_000)
    put(lanes, "small", [5], now=10.0)
    taken(lanes, 10.0)
    put(lanes, "large", [100] * 20, now=10.0)
    assert len(taken(lanes, 10.0 + since)) == rows


def test_large_calls_alone_fill_their_passes():
    lanes = flat_lanes(budget=600, shared=300, large=1_000)
    put(lanes, "first", [100] * 20)
    put(lanes, "second", [100] * 20)
    assert len(taken(lanes)) == 6
