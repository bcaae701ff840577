"""Owners share the queue and the places of the runner."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.batches.sharing import Turns, has_room
from deployments.batches.states import EVERYONE

TURN_S = 30.0
owners = st.sampled_from("abcd")


def queue_of(owners_of: str) -> dict[str, str]:
    """Returns a queue with a batch for each letter, which is its owner; `a0` is older than `b1`."""
    return {f"{owner}{n}": owner for n, owner in enumerate(owners_of)}


@pytest.mark.parametrize(
    ("queue", "owner", "most", "has"),
    [
        ("", "a", 1, True),
        ("a", "a", 1, False),
        ("aa", "a", 6, True),
        ("aaa", "a", 6, False),  # as many as it leaves free
        ("aaa", "b", 6, True),
        ("aaab", "b", 6, True),
        ("aaabb", "b", 6, False),
        ("aaabb", "c", 6, True),
        ("aaabbc", "d", 6, False),
    ],
)
def test_an_owner_may_have_as_many_as_it_leaves_free(queue, owner, most, has):
    assert has_room(Counter(queue), owner, most) == has


def test_without_keys_all_share_the_whole_queue():
    held = Counter({EVERYONE: 5})
    assert has_room(held, EVERYONE, 6)
    assert not has_room(held, EVERYONE, 5)


@given(st.lists(owners, max_size=40), st.integers(1, 20))
def test_whatever_one_owner_sends_another_one_finds_room(sent, most):
    held: Counter[str] = Counter()
    for owner in sent:
        held[owner] += has_room(held, owner, most)
    alone = Counter({"a": held["a"]})
    assert held.total() <= most
    assert most == 1 or has_room(alone, "new", most)


def test_an_owner_alone_has_all_places_the_oldest_batch_first():
    turns = Turns(2, TURN_S)
    assert turns.next(queue_of("aaa"), {}, 0) == "a0"
    assert turns.next({"a1": "a", "a2": "a"}, {"a0": "a"}, 0) == "a1"
    running = {"a0": "a", "a1": "a"}
    assert turns.next({"a2": "a"}, running, 0) is None
    assert turns.ended({"a2": "a"}, running, {"a0": 0, "a1": 0}, 1_000) is None


def test_a_new_owner_gets_a_place_once_a_turn_is_over():
    turns = Turns(2, TURN_S)
    running, since = {"a0": "a", "a1": "a"}, {"a0": 0.0, "a1": 5.0}
    waiting = {"a2": "a", "b3": "b"}
    assert turns.ended(waiting, running, since, TURN_S - 1) is None
    assert turns.ended(waiting, running, since, TURN_S) == "a0"
    assert turns.next({"a0": "a", **waiting}, {"a1": "a"}, TURN_S) == "b3"
    assert turns.ended({"a0": "a"}, {"a1": "a", "b3": "b"}, {"a1": 5.0, "b3": 30.0}, 999) is None


def test_a_free_place_is_filled_before_any_batch_gives_up_its_own():
    turns = Turns(2, TURN_S)
    assert turns.ended({"b1": "b"}, {"a0": "a"}, {"a0": 0}, 999) is None


@given(st.lists(owners, min_size=1, max_size=12), st.integers(1, 3))
def test_owners_that_wait_get_turns_of_equal_number(letters, places):
    turns, had, rounds = Turns(places, TURN_S), dict.fromkeys(letters, 0), 60
    waiting, running, since = queue_of("".join(letters)), {}, {}
    for now in (TURN_S * n for n in range(rounds)):
        for _ in range(places):
            if (ended := turns.ended(waiting, running, since, now)) is not None:
                waiting[ended] = running.pop(ended)
                waiting = dict(sorted(waiting.items()))
        while (batch := turns.next(waiting, running, now)) is not None:
            running[batch], since[batch] = waiting.pop(batch), now
        assert len(running) == min(places, len(letters))
        for owner in running.values():
            had[owner] += 1
    fair = rounds * min(places, len(had)) / len(had)
    assert min(had.values()) >= 0.8 * fair
