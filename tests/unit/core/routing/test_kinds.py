"""Which kind of model answers: rerankers score where they can, and never give vectors."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.core.errors import ModelUnavailable, NoModelFits, SpaceMismatch, WrongKind
from deployments.core.models.spec import Kind, Role, Size
from deployments.core.routing.facts import RequestFacts
from deployments.core.routing.policy import choose
from tests.support.policy_fleet import ALL, BROKEN, COLD, SMALL, model

JUDGE = model("judge", Size.SMALL, kind=Kind.RERANKER, dimension=1)
LARGE_JUDGE = model("large-judge", Size.LARGE, "en de", kind=Kind.RERANKER, dimension=1)
FLEET = (*ALL, JUDGE, LARGE_JUDGE)
BOTH = (Kind.RERANKER, Kind.EMBEDDER)


def rerank(requested="auto", **facts):
    return RequestFacts(requested, kinds=BOTH, roles=frozenset(Role), **facts)


@pytest.mark.parametrize(
    ("requested", "name"),
    [
        ("auto", "judge"),
        ("small", "judge"),
        ("large", "large-judge"),
        ("medium", "many"),
        ("large-judge", "large-judge"),
        ("small-en", "small-en"),
    ],
)
def test_a_reranker_scores_if_one_is_meant(requested, name):
    decision = choose(rerank(requested), FLEET)
    assert decision.model == name
    assert decision.kind is (Kind.RERANKER if "judge" in name else Kind.EMBEDDER)


def test_without_a_reranker_another_model_scores():
    assert choose(rerank(), ALL).kind is Kind.EMBEDDER


@pytest.mark.parametrize("requested", ["auto", "small", "large"])
def test_vectors_never_come_from_a_reranker(requested):
    decision = choose(RequestFacts(requested), FLEET)
    assert decision.kind is Kind.EMBEDDER


def test_a_reranker_named_for_vectors_is_refused_with_those_that_would_do():
    with pytest.raises(WrongKind) as refused:
        choose(RequestFacts("judge"), FLEET)
    assert (refused.value.code, refused.value.param) == ("wrong_model_kind", "model")
    assert "small-en, many" in refused.value.message
    assert "large-judge" not in refused.value.message


def test_a_size_of_rerankers_alone_gives_no_vectors():
    with pytest.raises(WrongKind):
        choose(RequestFacts("small"), (JUDGE, ALL[1]))


def test_a_reranker_that_cannot_honour_the_request_yields_to_cosines():
    decision = choose(rerank(languages=frozenset({"ko"})), FLEET)
    assert decision.model == "many"
    assert "ko" in decision.passed_over["judge"]


def test_a_document_that_may_be_cut_does_not_make_the_reranker_yield():
    longest = {candidate.name: 600 for candidate in FLEET}
    assert choose(rerank(longest=longest), FLEET).model == "long"
    assert choose(rerank(longest=longest, truncate=True), FLEET).model == "judge"


def test_a_reranker_that_is_away_is_not_replaced_by_cosines():
    with pytest.raises(ModelUnavailable):
        choose(rerank(), (SMALL, JUDGE), {"judge": BROKEN})


def test_a_cold_reranker_is_started():
    assert choose(rerank(), (SMALL, JUDGE), {"judge": COLD}).model == "judge"


def test_a_space_is_answered_by_its_model():
    space = SMALL.own_space()
    assert choose(rerank(space=space), FLEET).model == "small-en"
    assert choose(rerank("small", space=space), FLEET).model == "small-en"
    with pytest.raises(SpaceMismatch):
        choose(rerank("judge", space=space), FLEET)


def test_a_model_not_read_yet_counts_as_one_that_gives_vectors():
    unread = replace(JUDGE, spec=None)
    assert choose(rerank(), (SMALL, unread)).kind is Kind.EMBEDDER


def test_what_needs_a_reranker_fits_no_other():
    only = replace(rerank(), kinds=(Kind.RERANKER,))
    with pytest.raises(NoModelFits):
        choose(only, ALL)
    with pytest.raises(WrongKind, match="judge"):
        choose(replace(only, requested="small-en"), FLEET)
