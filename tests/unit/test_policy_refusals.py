"""The policy, case by case: who is refused, and why."""

from __future__ import annotations

import pytest

from deployments.embedding.errors import (
    ModelUnavailable,
    NoModelFits,
    SpaceMismatch,
    UnknownModel,
)
from deployments.embedding.facts import Aim, Facts, Policy
from deployments.embedding.routing import choose, is_left_open, roles_of

from .fleet_of_cases import (
    ALL,
    BROKEN,
    DOCUMENT,
    NESTED,
    QUERY,
    SMALL,
    TWINS,
    long_text,
    member,
)

REFUSED = {
    "a language nobody has": (
        Facts("auto", languages=frozenset({"th"})),
        ALL[:4],
        {},
        NoModelFits,
        "small-en: it is not made for th",
    ),
    "too long for all": (
        Facts("auto", longest=long_text(5_000)),
        ALL,
        {},
        NoModelFits,
        "long: it takes 4096 tokens, the longest text has at least 5000",
    ),
    "a dimension nobody has": (
        Facts("auto", dimensions=7),
        ALL,
        {},
        NoModelFits,
        "nested: its dimensions are 4 or 8, not 7",
    ),
    "no instruct model": (
        Facts("auto", instruction="x"),
        (SMALL,),
        {},
        NoModelFits,
        "it takes no instruction",
    ),
    "token ids of another": (Facts("auto", tokenizer="bert"), ALL, {}, NoModelFits, "token ids"),
    "all broken": (
        Facts("auto"),
        (SMALL,),
        {"small-en": BROKEN},
        ModelUnavailable,
        "it is unavailable: the file is damaged",
    ),
    "the one that fits is broken": (
        Facts("auto", dimensions=16),
        ALL,
        {"many": BROKEN},
        ModelUnavailable,
        "many: it is unavailable",
    ),
    "a space nobody has": (Facts("auto", space="0" * 12), ALL, {}, SpaceMismatch, "the spaces are"),
    "another space than the model's": (
        Facts("long", space=SMALL.own_space()),
        ALL,
        {},
        SpaceMismatch,
        "these do: small-en",
    ),
    "the space at other dimensions": (
        Facts("auto", space=NESTED.own_space(), dimensions=4),
        ALL,
        {},
        SpaceMismatch,
        "at 4 dimensions",
    ),
    "a required space, and a text it is not made for": (
        Facts("auto", space=SMALL.own_space(), languages=frozenset({"ko"})),
        ALL,
        {},
        NoModelFits,
        "many: it does not answer in space",
    ),
    "a document in a space that lacks its teacher": (
        Facts("leaf", roles=DOCUMENT),
        TWINS,
        {"leaf-teacher": BROKEN},
        ModelUnavailable,
        "space leaf uses it for query only",
    ),
    "a name nobody has": (Facts("nobody"), TWINS, {}, UnknownModel, "leaf, auto"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_is_refused_and_why(case):
    facts, candidates, loads, error, words = REFUSED[case]
    with pytest.raises(error) as refused:
        choose(facts, candidates, loads)
    assert words in refused.value.message


def test_a_space_whose_members_disagree_is_unavailable_and_its_models_are_not():
    apart = tuple(member(c, c.shared.roles, "cosine 0.12") for c in TWINS[:2])
    for facts in (Facts("leaf"), Facts("auto", space="leaf")):
        with pytest.raises(ModelUnavailable, match=r"space leaf does not answer: cosine 0\.12"):
            choose(facts, apart)
    assert choose(Facts("auto"), apart).space is None
    assert choose(Facts("leaf-query"), apart).model == "leaf-query"


@pytest.mark.parametrize("barred", ["non-commercial", "cc-by-nc-4.0"])
@pytest.mark.parametrize("requested", ["auto", "long", "large"])
def test_a_barred_licence_never_answers(barred, requested):
    policy = Policy(barred=frozenset({barred}))
    with pytest.raises(NoModelFits, match=f"the config bars {barred} licences"):
        choose(Facts(requested, longest=long_text(600)), ALL, policy=policy)


def test_the_configs_aim_is_for_requests_without_one():
    policy = Policy(aim=Aim.BEST)
    assert choose(Facts("auto"), ALL, policy=policy).model == "long"
    assert choose(Facts("auto", aim=Aim.FAST), ALL, policy=policy).model == "small-en"


@pytest.mark.parametrize(
    ("requested", "left_open"),
    [("auto", True), ("auto-query", True), ("leaf", True), ("leaf-query", False), ("long", False)],
)
def test_when_texts_need_a_look(requested, left_open):
    assert is_left_open(requested, TWINS) is left_open


def test_the_roles_that_will_be_answered():
    assert roles_of(Facts("auto")) == DOCUMENT
    assert roles_of(Facts("auto-query")) == QUERY
    assert roles_of(Facts("auto", instruction="x")) == QUERY
    assert roles_of(Facts("auto", roles=QUERY | DOCUMENT)) == QUERY | DOCUMENT
