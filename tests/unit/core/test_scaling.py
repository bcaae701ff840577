"""How many replicas: over time, against a fleet that is a fluid, and decision by decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.core.lane import Lane
from deployments.core.planning.fluid import Fluid
from deployments.core.planning.simulation import OwnPolicy, Traffic, simulate
from deployments.core.scaling import CONFIRM_AFTER_S, Demand, Goal, State, decide, need
from testing.traffics import HELD_OUT

SPEED = 1_000.0
GOAL = Goal(1, 8, downscale_delay_s=20, downscale_to_zero_delay_s=40)
TO_ZERO = Goal(0, 8, downscale_delay_s=20, downscale_to_zero_delay_s=40)
FEW = settings(max_examples=30)  # each example is minutes of a fleet's life

Offer = Callable[[float, Fluid], tuple[float, float]]


def watch(goal: Goal, seconds: int, offer: Offer, **fluid: float) -> list[int]:
    """Returns the replicas asked for, second by second; ``offer`` gives tokens/s of both lanes."""
    fleet, state, asked = Fluid(SPEED, **{"start_s": 5.0, **fluid}), State(), []
    fleet.scale(max(fleet.running, goal.min_replicas))
    for now in range(seconds):
        wanted, state = decide(goal, fleet.demand(), fleet.replicas, state, now)
        fleet.scale(wanted)
        asked.append(wanted)
        fleet.step(dict(zip(Lane, offer(now, fleet), strict=True)))
    return asked


def steady(online: float, offline: float = 0.0) -> Offer:
    return lambda now, fleet: (online, offline)


def job(now: float, fleet: Fluid) -> tuple[float, float]:
    """A corpus job: keeps half a second of work waiting at each replica."""
    return 0.0, fleet.running * 1.5 * SPEED - fleet.waiting[Lane.OFFLINE]


def changes(asked: list[int]) -> int:
    return sum(a != b for a, b in pairwise(asked))


@FEW
@given(st.floats(0, 9_000), st.floats(0, 9_000), st.floats(0, 60))
def test_steady_load_is_answered_once(online, offline, start_s):
    asked = watch(GOAL, 400, steady(online), start_s=start_s)
    assert changes(asked) <= 1
    assert asked[-1] == asked[200]


def test_steady_load_gets_what_the_utilisation_says():
    assert watch(GOAL, 100, steady(2_000))[-1] == 3  # 2.9 at 70%
    assert watch(GOAL, 100, steady(700))[-1] == 1


def test_load_is_answered_within_the_confirmation():
    asked = watch(GOAL, 20, steady(2_500))
    assert next(i for i, n in enumerate(asked) if n > 1) <= CONFIRM_AFTER_S + 1


@FEW
@given(
    st.floats(0, 1_200),
    st.floats(1_300, 8_000),
    st.integers(30, 120),
    st.integers(30, 120),
    st.floats(0, 60),
)
def test_a_square_wave_makes_no_more_changes_than_it_has_edges(low, high, up, down, start_s):
    def wave(now, fleet):
        return (high if now % (up + down) < up else low), 0.0

    assert changes(watch(GOAL, 4 * (up + down), wave, start_s=start_s)) <= 8


@FEW
@given(st.floats(200, 5_000), st.integers(0, 1_000))
def test_noise_does_not_make_it_flap(load, seed):
    """Requests of 200 tokens at random, as they are counted over the last reports."""
    dice = Random(seed)

    def noisy(now, fleet):
        return sum(dice.gauss(load, (load * 200) ** 0.5) for _ in range(3)) / 3, 0.0

    assert changes(watch(GOAL, 600, noisy)) <= 3


def test_noise_that_lasts_is_not_followed():
    """The load is off by 15% for 20 s at a time, which is less than a replica takes to start."""
    dice, noise, goal = Random(0), 0.0, Goal(1, 200)

    def noisy(now, fleet):
        nonlocal noise
        noise = 0.95 * noise + dice.gauss(0, 0.047)
        return 70_000 * (1 + noise), 0.0

    asked = watch(goal, 3_600, noisy, start_s=60, running=100)
    assert changes(asked) <= 12
    assert max(asked) <= 130


@pytest.mark.parametrize(
    ("name", "replicas", "least", "most_refused"),
    [
        ("burst each 5 s", 6, 6, 0.0),
        ("burst each 10 s", 5, 5, 0.0),
        ("burst each 30 s", 4, 4, 0.0),
        ("large calls", 5, 4, 0.035),
    ],
)
def test_short_bursts_keep_the_replicas_that_serve_them(name, replicas, least, most_refused):
    day = HELD_OUT[name](0)
    traffic = Traffic(day.tokens_per_s[:1_200], day.tokens_per_request[:1_200])
    fleet = Fluid(20_000, 60, running=replicas)
    run = simulate(OwnPolicy(Goal(1, 20)), traffic, fleet)
    assert run.refused_share <= most_refused
    assert run.replicas.min() >= least


@FEW
@given(st.integers(4, 50), st.floats(0.5, 3))
def test_a_fleet_with_room_for_each_burst_keeps_it(every_s, load):
    """What waits longer than 10 s is refused, so a burst needs a replica for each 10 s of work."""
    burst = every_s * load * SPEED
    replicas = max(int(load / 0.7) + 1, int(burst / (10 * SPEED)) + 1)

    def bursts(now, fleet):  # as replicas report it, averaged over two seconds
        return (burst / 2 if now % every_s < 2 else 0), 0.0

    asked = watch(Goal(1, 20), 600, bursts, start_s=60, running=replicas)
    assert min(asked) >= replicas


def test_what_is_known_of_the_load_outlives_a_change_and_not_an_idle_time():
    state = State(mean=3.0, mean_at=9.0, variance=0.5, lead_s=20.0)
    load = Demand(1, SPEED, 0.5, {Lane.ONLINE: 2_100.0, Lane.OFFLINE: 0.0})
    replicas, changed = decide(GOAL, load, 1, state, 10.0)
    assert replicas == 3
    assert (changed.mean, changed.lead_s) == (pytest.approx(3), 20)
    idle = replace(state, last_work=0.0)
    replicas, rested = decide(TO_ZERO, Demand(1, SPEED), 1, idle, 50.0)
    assert (replicas, rested.mean, rested.lead_s) == (0, None, 20)


@FEW
@given(st.floats(5, 50), st.floats(0, 30))
def test_a_ramp_is_followed_up_and_down(slope, start_s):
    rise, stay = int(5_000 / slope), 120
    end = 2 * rise + stay

    def ramp(now, fleet):
        return slope * max(0, min(now, rise, end - now)), 0.0

    asked = watch(GOAL, end + 200, ramp, start_s=start_s)
    assert max(asked) in (7, 8)
    assert asked[-1] == 1
    peak = asked.index(max(asked))
    assert asked[:peak] == sorted(asked[:peak])
    assert asked[peak:] == sorted(asked[peak:], reverse=True)


def test_a_lull_shorter_than_the_patience_changes_nothing():
    def lulls(now, fleet):
        return (3_000 if now % 30 < 15 else 0), 0.0

    assert changes(watch(GOAL, 300, lulls)) == 1


def test_to_zero_and_back():
    def burst(now, fleet):
        return (500 if 100 <= now < 110 else 0), 0.0

    asked = watch(TO_ZERO, 220, burst)
    assert asked[:40] == [1] * 40
    assert asked[41:100] == [0] * 59
    assert asked[101:140] == [1] * 39
    assert asked[-1] == 0


def test_a_start_that_takes_longer_than_the_idle_time_is_not_given_up():
    def one_call(now, fleet):
        return (50 if now == 100 else 0), 0.0

    asked = watch(TO_ZERO, 400, one_call, start_s=120)
    assert asked[101:220] == [1] * 119
    assert asked[-1] == 0


def test_work_that_trickles_keeps_the_last_replica():
    def trickle(now, fleet):
        return (10 if now % 30 == 0 else 0), 0.0

    assert set(watch(TO_ZERO, 300, trickle)) == {1}


def test_offline_work_grows_to_its_cap_and_leaves_when_it_ends():
    goal = Goal(1, 8, offline_max_replicas=4, downscale_delay_s=20)
    asked = watch(goal, 300, lambda now, fleet: job(now, fleet) if now < 150 else (0, 0))
    assert sorted(set(asked[:150])) == [1, 2, 4]
    assert asked[149:151] == [4, 4]
    assert asked[-1] == 1


def test_offline_work_adds_nothing_where_its_cap_is_reached():
    assert set(watch(Goal(1, 8, offline_max_replicas=1), 200, job)) == {1}


def test_short_offline_work_starts_no_replica():
    assert set(watch(GOAL, 100, lambda now, _: (0, 5_000 if now == 50 else 0))) == {1}


@FEW
@given(st.floats(0, 5_000))
def test_offline_work_gives_way(online):
    """What both lanes get is never more than online alone needs or offline may have."""
    goal = Goal(1, 8, offline_max_replicas=3, downscale_delay_s=20)
    both = watch(goal, 200, lambda now, fleet: (online, job(now, fleet)[1]))
    assert both[-1] == max(3, watch(goal, 200, steady(online))[-1])


def test_offline_work_that_comes_at_its_own_pace_settles():
    asked = watch(GOAL, 2_000, steady(0, 2_500))
    assert asked[-1] in (3, 4)
    assert len(set(asked[1_000:])) == 1


LANES = st.fixed_dictionaries({lane: st.floats(0, 1e6) for lane in Lane})
DEMANDS = st.builds(
    Demand,
    running=st.integers(0, 20),
    speed=st.floats(0, 1e5),
    start_s=st.floats(0, 600),
    arriving=LANES,
    waiting=LANES,
    calls=st.floats(0, 1e3),
)
GOALS = st.builds(
    lambda low, more, cap: Goal(low, max(1, low + more), offline_max_replicas=cap),
    st.integers(0, 5),
    st.integers(0, 20),
    st.none() | st.integers(0, 25),
)


@given(GOALS, st.lists(st.tuples(DEMANDS, st.floats(0, 200)), max_size=20), st.integers(0, 25))
def test_always_within_bounds(goal, course, replicas):
    state, now = State(), 0.0
    for demand, seconds in course:
        now += seconds
        replicas, state = decide(goal, demand, replicas, state, now)
        assert goal.min_replicas <= replicas <= goal.max_replicas


@given(
    DEMANDS.filter(lambda d: d.running and d.speed > 1e-3),
    st.sampled_from(Lane),
    st.floats(0, 1e6),
    st.integers(1, 25),
    st.booleans(),
)
def test_more_work_is_never_worth_fewer_replicas(demand, lane, more, replicas, lasts):
    def with_more(**field):
        return need(GOAL, Demand(**{**vars(demand), **field}), replicas, lasts)

    before = need(GOAL, demand, replicas, lasts)
    waiting = {**demand.waiting, lane: demand.waiting[lane] + more}
    arriving = {**demand.arriving, lane: demand.arriving[lane] + more}
    assert with_more(waiting=waiting) >= before
    assert with_more(arriving=arriving) >= before


@pytest.mark.parametrize(("calls", "wanted"), [(0, 0), (0.1, 1), (100, 1)])
def test_from_zero_the_first_call_starts_one(calls, wanted):
    assert decide(TO_ZERO, Demand(0, calls=calls), 0, State(), 5.0)[0] == wanted


def test_how_long_replicas_take_to_come_is_measured():
    load = Demand(1, SPEED, 0.5, {Lane.ONLINE: 2_000.0, Lane.OFFLINE: 0.0})
    replicas, state = 1, State()
    for now in range(20):
        replicas, state = decide(
            GOAL, replace(load, running=3 if now > 13 else 1), replicas, state, now
        )
    assert (replicas, state.lead_s) == (3, 11)


def test_a_backlog_that_would_outlast_a_start_is_worth_more():
    def worth(start_s):
        waiting = {Lane.ONLINE: 9_000.0, Lane.OFFLINE: 0.0}
        return need(GOAL, Demand(1, SPEED, start_s, waiting=waiting), 1, offline_lasts=False)

    assert worth(0.5) == pytest.approx(1)
    assert worth(60) < 0.1
