"""The policy within spaces, and whom it refuses and why."""

from __future__ import annotations

import pytest

from deployments.core.errors import ModelUnavailable, NoModelFits, SpaceMismatch, UnknownModel
from deployments.core.routing.facts import Aim, Policy, RequestFacts
from deployments.core.routing.policy import choose, is_left_open, roles_of
from tests.support.policy_fleet import (
    ALL,
    BROKEN,
    BUSIER,
    BUSY,
    DOCUMENT,
    LEAF,
    NESTED,
    QUERY,
    SHARED,
    SMALL,
    TEACHER,
    TWINS,
    long_text,
    member,
)

IN_A_SPACE = {
    "a query goes to the small member": (RequestFacts("leaf", roles=QUERY), {}, "leaf-query"),
    "a document to the one that takes them": (
        RequestFacts("leaf", roles=DOCUMENT),
        {},
        "leaf-teacher",
    ),
    "both roles": (RequestFacts("leaf", roles=QUERY | DOCUMENT), {}, "leaf-teacher"),
    "without a role it is a document": (RequestFacts("leaf"), {}, "leaf-teacher"),
    "the role in the name": (RequestFacts("leaf-query-query"), {}, "leaf-query"),
    "an idle teacher for the best": (
        RequestFacts("leaf", roles=QUERY, aim=Aim.BEST),
        {},
        "leaf-teacher",
    ),
    "a tight latency moves a query": (
        RequestFacts("leaf", roles=QUERY, max_latency_ms=50),
        {"leaf-teacher": BUSY},
        "leaf-query",
    ),
    "a busy small one": (RequestFacts("leaf", roles=QUERY), {"leaf-query": BUSY}, "leaf-teacher"),
    "by the space's id": (RequestFacts("auto", roles=QUERY, space=SHARED), {}, "leaf-query"),
    "by the space's name": (RequestFacts("auto", roles=QUERY, space="leaf"), {}, "leaf-query"),
    "a member by name in the space": (
        RequestFacts("leaf-teacher", space=SHARED),
        {},
        "leaf-teacher",
    ),
    "a member's own space": (
        RequestFacts("auto", roles=QUERY, space=TEACHER.own_space()),
        {"leaf-teacher": BUSIER},
        "leaf-teacher",
    ),
    "never out of it, however busy": (
        RequestFacts("leaf", roles=DOCUMENT),
        {"leaf-teacher": BUSIER},
        "leaf-teacher",
    ),
}


@pytest.mark.parametrize("case", IN_A_SPACE)
def test_who_answers_in_a_space(case):
    facts, loads, expected = IN_A_SPACE[case]
    assert choose(facts, TWINS, loads).model == expected


@pytest.mark.parametrize(
    ("facts", "space", "failover"),
    [
        (RequestFacts("leaf", roles=QUERY), SHARED, ("leaf-teacher",)),
        (RequestFacts("leaf", roles=DOCUMENT), SHARED, ()),
        (RequestFacts("auto", roles=QUERY), SHARED, ("leaf-teacher",)),
        (RequestFacts("auto", aim=Aim.BEST), None, ()),  # the large one shares nothing
        (RequestFacts("leaf-query"), None, ()),
        (RequestFacts("leaf-query", space="leaf"), SHARED, ()),
        (RequestFacts("auto", roles=QUERY, space=LEAF.own_space()), None, ()),
    ],
)
def test_what_the_space_is_called_and_who_may_stand_in(facts, space, failover):
    actual = choose(facts, TWINS)
    assert (actual.space, actual.failover) == (space, failover)


REFUSED = {
    "a language nobody has": (
        RequestFacts("auto", languages=frozenset({"th"})),
        ALL[:4],
        {},
        NoModelFits,
        "small-en: it is not made for th",
    ),
    "too long for all": (
        RequestFacts("auto", longest=long_text(5_000)),
        ALL,
        {},
        NoModelFits,
        "long: it takes 4096 tokens, the longest text has at least 5000",
    ),
    "a dimension nobody has": (
        RequestFacts("auto", dimensions=7),
        ALL,
        {},
        NoModelFits,
        "nested: its dimensions are 4 or 8, not 7",
    ),
    "no instruct model": (
        RequestFacts("auto", instruction="x"),
        (SMALL,),
        {},
        NoModelFits,
        "it takes no instruction",
    ),
    "token ids of another": (
        RequestFacts("auto", tokenizer="bert"),
        ALL,
        {},
        NoModelFits,
        "token ids",
    ),
    "all broken": (
        RequestFacts("auto"),
        (SMALL,),
        {"small-en": BROKEN},
        ModelUnavailable,
        "it is unavailable: the file is damaged",
    ),
    "the one that fits is broken": (
        RequestFacts("auto", dimensions=16),
        ALL,
        {"many": BROKEN},
        ModelUnavailable,
        "many: it is unavailable",
    ),
    "a space nobody has": (
        RequestFacts("auto", space="0" * 12),
        ALL,
        {},
        SpaceMismatch,
        "the spaces are",
    ),
    "another space than the model's": (
        RequestFacts("long", space=SMALL.own_space()),
        ALL,
        {},
        SpaceMismatch,
        "these do: small-en",
    ),
    "the space at other dimensions": (
        RequestFacts("auto", space=NESTED.own_space(), dimensions=4),
        ALL,
        {},
        SpaceMismatch,
        "at 4 dimensions",
    ),
    "a required space, and a text it is not made for": (
        RequestFacts("auto", space=SMALL.own_space(), languages=frozenset({"ko"})),
        ALL,
        {},
        NoModelFits,
        "many: it does not answer in space",
    ),
    "a document in a space that lacks its teacher": (
        RequestFacts("leaf", roles=DOCUMENT),
        TWINS,
        {"leaf-teacher": BROKEN},
        ModelUnavailable,
        "space leaf uses it for query only",
    ),
    "a name nobody has": (RequestFacts("nobody"), TWINS, {}, UnknownModel, "leaf, auto"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_is_refused_and_why(case):
    facts, candidates, loads, error, words = REFUSED[case]
    with pytest.raises(error) as refused:
        choose(facts, candidates, loads)
    assert words in refused.value.message


def test_a_space_whose_members_disagree_is_unavailable_and_its_models_are_not():
    apart = tuple(member(c, c.shared.roles, "cosine 0.12") for c in TWINS[:2])
    for facts in (RequestFacts("leaf"), RequestFacts("auto", space="leaf")):
        with pytest.raises(ModelUnavailable, match=r"space leaf does not answer: cosine 0\.12"):
            choose(facts, apart)
    assert choose(RequestFacts("auto"), apart).space is None
    assert choose(RequestFacts("leaf-query"), apart).model == "leaf-query"


@pytest.mark.parametrize("barred", ["non-commercial", "cc-by-nc-4.0"])
@pytest.mark.parametrize("requested", ["auto", "long", "large"])
def test_a_barred_licence_never_answers(barred, requested):
    policy = Policy(barred=frozenset({barred}))
    with pytest.raises(NoModelFits, match=f"the config bars {barred} licences"):
        choose(RequestFacts(requested, longest=long_text(600)), ALL, policy=policy)


def test_the_configs_aim_is_for_requests_without_one():
    policy = Policy(aim=Aim.BEST)
    assert choose(RequestFacts("auto"), ALL, policy=policy).model == "long"
    assert choose(RequestFacts("auto", aim=Aim.FAST), ALL, policy=policy).model == "small-en"


@pytest.mark.parametrize(
    ("requested", "left_open"),
    [("auto", True), ("auto-query", True), ("leaf", True), ("leaf-query", False), ("long", False)],
)
def test_when_texts_need_a_look(requested, left_open):
    assert is_left_open(requested, TWINS) is left_open


def test_the_roles_that_will_be_answered():
    assert roles_of(RequestFacts("auto")) == DOCUMENT
    assert roles_of(RequestFacts("auto-query")) == QUERY
    assert roles_of(RequestFacts("auto", instruction="x")) == QUERY
    assert roles_of(RequestFacts("auto", roles=QUERY | DOCUMENT)) == QUERY | DOCUMENT
