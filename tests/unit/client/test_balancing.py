"""Which replica gets a call: least wait for its speed, lanes apart, silent and leaving ones last."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.client.balancing import SILENT_AFTER_S, Balancer
from deployments.core.lane import Lane
from deployments.wire.status import ReplicaState, ReplicaStatus

ONLINE, OFFLINE = Lane.ONLINE, Lane.OFFLINE
READY = ReplicaStatus(ReplicaState.READY, tokens_per_s=1_000, space="space")


def waiting(online=0, offline=0, status=READY):
    return replace(status, waiting={ONLINE: online, OFFLINE: offline})


def balancer(**statuses):
    """Returns a balancer over these replicas, heard at time 0."""
    balancer = Balancer()
    for key, status in statuses.items():
        balancer.join(key, status, 0.0)
    return balancer


def pick(balancer, lane=ONLINE, tokens=10, space="space", now=0.0, besides=()):
    return balancer.pick(lane, tokens, space, now, besides)


def test_without_a_replica_there_is_no_choice():
    assert pick(balancer()) is None


def test_the_fewest_waiting_tokens_win_not_the_fewest_calls():
    fleet = balancer(a=READY, b=READY)
    fleet.sent("a", ONLINE, 30_000)
    for _ in range(20):
        fleet.sent("b", ONLINE, 5)
    assert pick(fleet) == "b"


def test_waiting_tokens_count_by_the_speed_of_their_replica():
    fast = replace(READY, tokens_per_s=10_000)
    assert pick(balancer(slow=waiting(100), fast=waiting(900, status=fast))) == "fast"
    assert pick(balancer(slow=waiting(10), fast=waiting(900, status=fast))) == "slow"


def test_an_idle_fast_replica_is_better_than_an_idle_slow_one():
    fast = replace(READY, tokens_per_s=10_000)
    assert pick(balancer(slow=READY, fast=fast)) == "fast"


def test_offline_work_does_not_keep_online_calls_away():
    fleet = balancer(a=waiting(offline=90_000), b=waiting(online=10))
    assert pick(fleet, ONLINE) == "a"
    assert pick(fleet, OFFLINE) == "b"


def test_idle_replicas_take_turns():
    fleet = balancer(a=READY, b=READY, c=READY)
    turns = []
    for _ in range(6):
        turns.append(pick(fleet))
        fleet.sent(turns[-1], ONLINE, 10)
        fleet.ended(turns[-1], ONLINE, 10)
    assert sorted(turns[:3]) == ["a", "b", "c"]
    assert turns[3:] == turns[:3]


def test_what_a_replica_says_of_this_clients_own_calls_is_not_counted_twice():
    fleet = balancer(a=READY, b=waiting(60))
    fleet.sent("a", ONLINE, 50)
    fleet.heard("a", waiting(50), 1.0)
    assert pick(fleet, tokens=1) == "a"


def test_an_answer_says_what_waits_now():
    fleet = balancer(a=waiting(5_000), b=waiting(100))
    fleet.answered("a", {ONLINE: 0, OFFLINE: 0}, 1.0)
    assert pick(fleet) == "a"


@pytest.mark.parametrize("state", [ReplicaState.LOADING, ReplicaState.UNAVAILABLE])
def test_a_replica_that_cannot_answer_comes_last(state):
    down = replace(READY, state=state)
    assert pick(balancer(down=down, busy=waiting(50_000))) == "busy"
    assert pick(balancer(down=down)) == "down"


def test_a_silent_replica_comes_last():
    fleet = balancer(hung=READY, busy=waiting(50_000))
    now = SILENT_AFTER_S + 0.1
    fleet.heard("busy", waiting(50_000), now)
    assert pick(fleet, now=now) == "busy"
    assert fleet.is_silent("hung", now)
    fleet.answered("hung", {}, now)
    assert pick(fleet, now=now) == "hung"


def test_the_only_replica_is_chosen_although_it_is_silent_but_not_for_a_second_try():
    fleet = balancer(hung=READY, also=READY)
    assert pick(fleet, now=99.0) is not None
    assert pick(fleet, now=99.0, besides=["also"]) is None


def test_a_replica_that_leaves_or_has_the_call_already_is_not_chosen():
    fleet = balancer(a=READY, b=READY)
    assert pick(fleet, besides=["a"]) == "b"
    fleet.avoid("a", True)
    assert pick(fleet, besides=["b"]) is None
    fleet.avoid("a", False)
    assert pick(fleet, besides=["b"]) == "a"


def test_a_call_goes_to_another_version_only_if_its_own_is_clearly_busier():
    new = replace(READY, space="new")
    assert pick(balancer(old=waiting(200), new=new)) == "old"
    assert pick(balancer(old=waiting(300), new=new)) == "new"
    assert pick(balancer(new=new)) == "new"


def test_what_ends_after_its_replica_has_gone_is_no_error():
    fleet = balancer(a=READY)
    fleet.sent("a", ONLINE, 10)
    fleet.leave("a")
    fleet.ended("a", ONLINE, 10)
    fleet.answered("a", {}, 0.0)
    fleet.avoid("a", True)
    assert pick(fleet) is None


@given(
    st.lists(st.tuples(st.sampled_from(Lane), st.integers(1, 30_000)), min_size=50, max_size=200),
    st.integers(2, 5),
)
def test_tokens_stay_even_when_calls_do_not(calls, replicas):
    """Two replicas of one speed differ by no more than the largest call of a lane."""
    fleet = balancer(**{str(n): READY for n in range(replicas)})
    sent = {str(n): {ONLINE: 0, OFFLINE: 0} for n in range(replicas)}
    for lane, tokens in calls:
        key = pick(fleet, lane, tokens)
        fleet.sent(key, lane, tokens)
        sent[key][lane] += tokens
    online = [counts[ONLINE] for counts in sent.values()]
    largest = max((tokens for lane, tokens in calls if lane is ONLINE), default=0)
    assert max(online) - min(online) <= largest


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(Lane), st.integers(0, 9)), max_size=50
    )
)
def test_whatever_ends_leaves_nothing_behind(calls):
    fleet = balancer(a=READY, b=READY)
    for key, lane, tokens in calls:
        fleet.sent(key, lane, tokens)
    for key, lane, tokens in calls:
        fleet.ended(key, lane, tokens)
    assert {fleet._standings[key].wait_s(lane) for key in "ab" for lane in Lane} == {0}
