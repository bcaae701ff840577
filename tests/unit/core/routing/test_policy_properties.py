"""What holds for the policy whatever the fleet, the request and the load."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane
from deployments.core.models.spec import ModelSpec, Pooling, Prompts, Role, Size
from deployments.core.routing.facts import (
    Aim,
    Candidate,
    Load,
    ModelState,
    Policy,
    RequestFacts,
    SharedSpace,
)
from deployments.core.routing.policy import choose, roles_of
from deployments.core.routing.space_matching import spaces_of

INSTRUCT = Prompts(query_instruction="Instruct: {instruction}\nQuery: ")
LANGUAGES = ("en", "de", "ko")
NAMES = ("a", "b", "c", "d")
SPACES = ("pair", "5ba4ed5ba4ed")
REFUSALS = (400, 404, 409, 503)


@st.composite
def candidates(draw) -> list[Candidate]:
    return [draw(candidate(name)) for name in NAMES[: draw(st.integers(1, 4))]]


@st.composite
def candidate(draw, name: str) -> Candidate:
    languages = tuple(draw(st.sets(st.sampled_from(LANGUAGES))))
    spec = ModelSpec(
        name,
        f"acme/{name}",
        f"{name}-1",
        "bert",
        Pooling.MEAN,
        draw(st.sampled_from([8, 16])),
        draw(st.sampled_from([128, 512, 4096])),
        prompts=draw(st.sampled_from([Prompts(), INSTRUCT])),
        licence=draw(st.sampled_from(["mit", "cc-by-nc-4.0"])),
    )
    roles = frozenset(draw(st.sets(st.sampled_from(Role), min_size=1)))
    problem = draw(st.sampled_from([None, None, "they disagree"]))
    shared = draw(st.sampled_from([None, SharedSpace(*SPACES, roles, problem)]))
    return Candidate(name, spec.repo, draw(st.sampled_from([*Size, None])), spec, languages, shared)


loads = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(
        Load,
        state=st.sampled_from(ModelState),
        waiting=st.dictionaries(st.sampled_from(Lane), st.integers(0, 100_000)),
        tokens_per_s=st.none() | st.floats(1, 1e6),
        replicas=st.integers(0, 8),
        start_s=st.floats(0, 60),
    ),
)
spaces = st.none() | st.sampled_from([*SPACES, "unknown"]) | st.sampled_from(NAMES)
requests = st.builds(
    RequestFacts,
    requested=st.sampled_from(["auto", "auto", "auto-query", "pair", "a", "small", None]),
    roles=st.none() | st.sets(st.sampled_from(Role), min_size=1).map(frozenset),
    languages=st.sets(st.sampled_from(LANGUAGES), max_size=2).map(frozenset),
    longest=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 5_000)),
    tokens=st.integers(1, 100_000),
    dimensions=st.none() | st.sampled_from([8, 16]),
    instruction=st.none() | st.just("Find it"),
    space=spaces,
    aim=st.none() | st.sampled_from(Aim),
    max_latency_ms=st.none() | st.floats(1, 10_000),
    lane=st.sampled_from(Lane),
)
policies = st.builds(Policy, barred=st.sampled_from([frozenset(), frozenset({"non-commercial"})]))


def with_a_real_space(facts: RequestFacts, fleet: list[Candidate]) -> RequestFacts:
    """A space drawn as a model's name stands for that model's own space."""
    own = {c.name: c.own_space(facts.dimensions) for c in fleet}
    return replace(facts, space=own.get(facts.space, facts.space))


def decided(facts, fleet, load, policy):
    """Returns the decision, or None after a look at the refusal."""
    try:
        return choose(facts, fleet, load, policy)
    except EmbedfleetError as error:
        refusal = error
    assert refusal.status in REFUSALS
    assert refusal.param in ("model", "space")
    return None


@given(requests, candidates(), loads, policies)
def test_every_hard_constraint_holds_or_the_refusal_is_clear(facts, fleet, load, policy):
    facts = with_a_real_space(facts, fleet)
    actual = decided(facts, fleet, load, policy)
    if actual is None:
        return
    for name in (actual.model, *actual.failover):
        chosen = next(c for c in fleet if c.name == name)
        assert not (policy.barred and chosen.spec.licence == "cc-by-nc-4.0")
        assert facts.space is None or facts.space in spaces_of(facts, chosen)
        if actual.reason in ("name", "size"):
            continue
        assert not chosen.languages or facts.languages <= set(chosen.languages)
        assert facts.dimensions in (None, chosen.spec.dimension)
        assert not facts.instruction or chosen.spec.takes_instruction
        assert facts.longest.get(name, 0) <= chosen.spec.max_tokens
        assert load.get(name, Load()).state is not ModelState.UNAVAILABLE
        if actual.space:
            assert roles_of(facts) <= chosen.shared.roles


@given(requests, candidates(), loads, policies)
def test_whoever_stands_in_is_of_the_same_space(facts, fleet, load, policy):
    facts = with_a_real_space(facts, fleet)
    actual = decided(facts, fleet, load, policy)
    if actual is None:
        return
    shared = {c.name: c.shared_space(facts.dimensions) for c in fleet}
    assert all(shared[name] == actual.space is not None for name in actual.failover)
    assert actual.space is None or shared[actual.model] == actual.space


@given(requests, candidates(), loads, policies, st.sampled_from(NAMES), st.integers(1, 10**6))
def test_more_load_never_makes_a_model_more_likely(facts, fleet, load, policy, name, more):
    facts = with_a_real_space(facts, fleet)
    before = decided(facts, fleet, load, policy)
    idle = load.get(name, Load())
    waiting = {lane: idle.waiting.get(lane, 0) + more for lane in Lane}
    after = decided(facts, fleet, {**load, name: replace(idle, waiting=waiting)}, policy)
    assert (before is None) == (after is None)
    if after is not None and after.model == name:
        assert before.model == name


@given(requests, candidates(), loads, policies)
def test_the_same_question_has_the_same_answer(facts, fleet, load, policy):
    facts = with_a_real_space(facts, fleet)
    first, again = (decided(facts, fleet, load, policy) for _ in range(2))
    assert first == again
    if first is not None:
        assert first.passed_over == again.passed_over
        assert set(first.passed_over) == {c.name for c in fleet} - {first.model}


@given(requests, candidates(), loads, loads)
def test_a_name_or_a_size_means_one_model_whatever_the_load(facts, fleet, one, other):
    facts = replace(with_a_real_space(facts, fleet), requested="a")
    assert decided(facts, fleet, one, Policy()) == decided(facts, fleet, other, Policy())
