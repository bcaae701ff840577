"""Lanes under any traffic: nothing lost, nothing twice, within budget, and nobody waits for ever."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.core.batching.lanes import BatchLimits, DropReason, Lanes, MicroBatch, QueuedText
from deployments.core.lane import Lane

ONLINE, OFFLINE = Lane.ONLINE, Lane.OFFLINE
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=8)
SHORT = st.lists(st.integers(1, 3), min_size=1, max_size=4)
PUTS = st.tuples(
    st.just("put"), st.sampled_from(list(Lane)), LENGTHS, st.sampled_from([0.5, 3, 1e9])
)
LEAVES = st.tuples(st.just("leave"), st.integers(0, 30))
TAKES = st.tuples(st.just("take"), st.sampled_from([0.0, 0.1, 1.0, 3.0]))
STEPS = st.lists(PUTS | PUTS | LEAVES | TAKES | TAKES, max_size=40)


def limits_of(token_budget, share, **others):
    return BatchLimits(token_budget, int(token_budget * share), **others)


LIMITS = st.builds(
    limits_of,
    token_budget=st.integers(1, 120),
    share=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    pads=st.booleans(),
    offline_patience_s=st.sampled_from([0.05, 2.0, 1e9]),
    large_call=st.sampled_from([0, 60, 4_096]),
    window=st.sampled_from([1, 2, 5, 512]),
)


@dataclass(eq=False)
class Caller:
    gone: bool = False


@dataclass
class Take:
    """A micro-batch, and what was true when it was chosen."""

    now: float
    alive: dict[Lane, list[QueuedText[Caller]]]
    gone: set[int]
    batch: MicroBatch[Caller]

    @property
    def lanes(self) -> set[Lane]:
        return {text.lane for text in self.batch.texts}


@dataclass
class Traffic:
    """Lanes, and beside them a list of all that came, oldest first."""

    limits: BatchLimits
    tokens_per_s: float = float("inf")
    now: float = 0.0
    callers: list[Caller] = field(default_factory=list)
    waiting: list[tuple[Caller, int]] = field(default_factory=list)
    taken: list[Take] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lanes = Lanes[Caller](self.limits, tokens_per_s=self.tokens_per_s)

    def run(self, steps) -> Traffic:
        for name, *details in steps:
            getattr(self, name)(*details)
        return self

    def drain(self) -> Traffic:
        while self.lanes:
            self.take(0.1)
        return self

    def put(self, lane, lengths, patience) -> None:
        caller = Caller()
        self.callers.append(caller)
        self.waiting += [(caller, row) for row in range(len(lengths))]
        self.lanes.put(caller, lengths, lane, self.now, self.now + patience)

    def leave(self, number) -> None:
        if number < len(self.callers):
            self.callers[number].gone = True

    def take(self, seconds) -> None:
        self.now += seconds
        alive = {
            lane: sorted(
                (t for t in queue if not t.owner.gone and t.deadline > self.now),
                key=lambda text: self.waiting.index((text.owner, text.row)),
            )
            for lane, queue in self.lanes._queues.items()
        }
        gone = {id(caller) for caller in self.callers if caller.gone}
        self.taken.append(Take(self.now, alive, gone, self.lanes.take(self.now)))


def takes(limits, steps) -> list[Take]:
    """Runs the steps, then takes until nothing waits."""
    return Traffic(limits).run(steps).drain().taken


@given(LIMITS, STEPS)
def test_nothing_is_lost_and_nothing_comes_twice(limits, steps):
    traffic = Traffic(limits).run(steps).drain()
    batches = [take.batch for take in traffic.taken]
    left = [text for b in batches for text in [*b.texts, *(dropped for dropped, _ in b.dropped)]]
    assert Counter((id(text.owner), text.row) for text in left) == Counter(
        (id(caller), row) for caller, row in traffic.waiting
    )


@given(LIMITS, STEPS)
def test_no_pass_is_over_budget_unless_one_text_alone_is(limits, steps):
    for take in takes(limits, steps):
        assert take.batch.cost <= limits.token_budget or len(take.batch.texts) == 1


@given(LIMITS, STEPS)
def test_topping_up_costs_online_no_more_than_agreed(limits, steps):
    for take in takes(limits, steps):
        if take.lanes == {ONLINE, OFFLINE}:
            assert take.batch.cost <= limits.shared_budget


@given(LIMITS, STEPS)
def test_texts_of_large_calls_cost_small_ones_no_more_than_agreed(limits, steps):
    for take in takes(limits, steps):
        online = [text for text in take.batch.texts if text.lane is ONLINE]
        if online and {text.is_large for text in take.alive[ONLINE][:1]} == {False}:
            assert take.batch.cost <= limits.shared_budget or not any(t.is_large for t in online)


@given(LIMITS, STEPS)
def test_the_oldest_text_is_in_the_next_pass_of_its_lane(limits, steps):
    for take in takes(limits, steps):
        if take.lanes:
            lane = ONLINE if ONLINE in take.lanes else OFFLINE
            assert take.alive[lane][0] in take.batch.texts


@given(LIMITS, STEPS)
def test_online_is_never_behind_offline_by_more_than_one_pass(limits, steps):
    overtaken = 0
    for take in takes(limits, steps):
        waits = bool(take.alive[ONLINE]) and ONLINE not in take.lanes
        overtaken = overtaken + 1 if waits else 0
        assert overtaken <= 1


@given(LIMITS, STEPS)
def test_only_what_is_alive_is_computed_and_only_what_is_not_is_dropped(limits, steps):
    for take in takes(limits, steps):
        for text in take.batch.texts:
            assert text in take.alive[text.lane]
        for text, reason in take.batch.dropped:
            gone = id(text.owner) in take.gone
            assert gone or text.deadline <= take.now
            assert reason is (DropReason.GONE if gone else DropReason.EXPIRED)


@given(LIMITS, STEPS)
def test_what_waits_is_counted_exactly(limits, steps):
    traffic = Traffic(limits)
    for step in [*steps, *[("take", 0.1)] * 5]:
        traffic.run([step])
        for lane, queue in traffic.lanes._queues.items():
            assert traffic.lanes.waiting_texts(lane) == len(queue)
            assert traffic.lanes.waiting_tokens(lane) == sum(text.tokens for text in queue)


@given(LIMITS, STEPS)
def test_a_take_is_empty_only_when_nothing_is_left(limits, steps):
    for take in takes(limits, steps):
        if not take.batch.texts:
            assert not any(take.alive.values())


@settings(max_examples=30)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=8),
    st.lists(st.tuples(SHORT, SHORT), min_size=30, max_size=30),
    st.sampled_from([0.1, 0.9, 5.0]),
)
def test_the_oldest_offline_text_waits_for_its_patience_and_two_passes(first, later, seconds):
    patience = 2.0
    traffic = Traffic(BatchLimits(40, 20, patience))
    traffic.put(OFFLINE, first, 1e9)
    oldest_since = 0.0
    for online, offline in later:  # both lanes are never empty, and some texts top up
        traffic.put(ONLINE, online, 1e9)
        traffic.put(OFFLINE, offline, 1e9)
        traffic.take(seconds)
        take = traffic.taken[-1]
        if take.alive[OFFLINE][0] in take.batch.texts:
            oldest_since = take.now
        assert take.now - oldest_since <= patience + 2 * seconds


SPEEDS = st.sampled_from([1.0, 20.0, 1_000.0])


@given(LIMITS, STEPS, SPEEDS)
def test_whatever_the_speed_nothing_is_lost_and_the_first_due_is_in_the_next_pass(
    limits, steps, tokens_per_s
):
    traffic = Traffic(limits, tokens_per_s).run(steps)
    while traffic.lanes:
        traffic.take(0.1)
    batches = [take.batch for take in traffic.taken]
    left = [text for b in batches for text in b.all_texts]
    assert Counter((id(text.owner), text.row) for text in left) == Counter(
        (id(caller), row) for caller, row in traffic.waiting
    )
    for take in traffic.taken:
        for lane in take.lanes - ({OFFLINE} if ONLINE in take.lanes else set()):
            assert min(take.alive[lane], key=lambda text: text.due) in take.batch.texts


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=20, max_size=60), min_size=1, max_size=8),
    st.integers(1, 40),
    st.booleans(),
)
def test_a_short_call_goes_before_long_ones_that_wait(long, short, pads):
    speed, budget = 100.0, 80
    lanes = Lanes[Caller](BatchLimits(budget, budget, pads=pads), tokens_per_s=speed)
    for lengths in long:
        lanes.put(Caller(), [*lengths, *[40] * 20], ONLINE, 0.0, 1e9)  # 8 s of work at least
    caller = Caller()
    lanes.put(caller, [short], ONLINE, 5.0, 1e9)
    assert lanes.tokens_before(short, ONLINE, 5.0, 1e9) == short
    assert caller in {text.owner for text in lanes.take(5.0).texts}


@settings(max_examples=30)
@given(st.lists(st.integers(1, 20), min_size=4, max_size=8), st.integers(2, 30))
def test_short_calls_that_never_end_do_not_starve_a_long_one(long, deadline):
    """Each second brings as many short calls as a second computes."""
    lanes = Lanes[Caller](BatchLimits(20, 20, pads=False), tokens_per_s=20.0)
    caller = Caller()
    lanes.put(caller, long, ONLINE, 0.0, float(deadline))
    left = set(range(len(long)))
    for second in range(2 * deadline):
        for _ in range(20):
            lanes.put(Caller(), [1], ONLINE, float(second), second + 1e9)
        left -= {text.row for text in lanes.take(float(second)).all_texts if text.owner is caller}
    assert not left


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), SPEEDS)
def test_calls_of_one_size_leave_in_order_of_arrival(rows, tokens_per_s):
    lanes = Lanes[Caller](BatchLimits(1, 1), tokens_per_s=tokens_per_s)
    callers = [Caller() for _ in rows]
    for second, caller in enumerate(callers):
        lanes.put(caller, [3, 2], ONLINE, float(second), second + 60.0)
    order = [lanes.take(0.0).texts[0].owner for _ in range(2 * len(rows))]
    assert order == [caller for caller in callers for _ in range(2)]


@given(LIMITS, STEPS, SPEEDS, st.integers(1, 60))
def test_what_is_due_before_a_call_is_counted_exactly(limits, steps, tokens_per_s, tokens):
    lanes = Traffic(limits, tokens_per_s).run(steps).lanes
    now, deadline = 100.0, 160.0
    for lane in Lane:
        before = lanes.tokens_before(tokens, lane, now, deadline)
        newcomer = Caller()
        lanes.put(newcomer, [tokens], lane, now, deadline)
        queue = list(lanes._queues[lane])
        place = next(i for i, text in enumerate(queue) if text.owner is newcomer)
        assert before == sum(text.tokens for text in queue[:place])
