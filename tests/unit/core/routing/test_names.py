"""Which model a request means."""

from __future__ import annotations

import pytest

from deployments.core.errors import InvalidRequest, UnknownModel
from deployments.core.models.spec import Kind, Role, Size
from deployments.core.routing.facts import Candidate, RequestFacts
from deployments.core.routing.policy import Decision, agree, choose, unknown_to_job

QUERY, DOCUMENT = Role.QUERY, Role.DOCUMENT
CANDIDATES = (
    Candidate("tiny", "acme/tiny", Size.SMALL),
    Candidate("tiny-v2", "acme/tiny-v2", Size.SMALL),
    Candidate("big", "acme/big", Size.LARGE),
    Candidate("own", "/models/own"),
    Candidate("asks-query", "acme/asks-query"),
    Candidate("large", "acme/misnamed", Size.SMALL),
)


@pytest.mark.parametrize(
    ("requested", "decision"),
    [
        ("tiny", Decision("tiny", "name")),
        ("acme/tiny", Decision("tiny", "name")),
        ("/models/own", Decision("own", "name")),
        ("tiny-query", Decision("tiny", "name", QUERY)),
        ("tiny-document", Decision("tiny", "name", DOCUMENT)),
        ("acme/tiny-v2-query", Decision("tiny-v2", "name", QUERY)),
        ("small", Decision("tiny", "size")),  # the config's order breaks ties
        ("small-query", Decision("tiny", "size", QUERY)),
        ("small-document", Decision("tiny", "size", DOCUMENT)),
        ("asks-query", Decision("asks-query", "name")),  # it is really called so
        ("asks-query-query", Decision("asks-query", "name", QUERY)),
        ("acme/asks-query-document", Decision("asks-query", "name", DOCUMENT)),
        ("large", Decision("large", "name")),  # a name goes before a size
        ("acme/big", Decision("big", "name")),
        ("openai/tiny", Decision("tiny", "name")),  # as LiteLLM sends it
        ("openai/acme/big", Decision("big", "name")),
        ("openai/tiny-query", Decision("tiny", "name", QUERY)),
        ("openai/small-document", Decision("tiny", "size", DOCUMENT)),
    ],
)
def test_what_a_name_means(requested, decision):
    assert choose(RequestFacts(requested), CANDIDATES) == decision


@pytest.mark.parametrize(
    "requested",
    [
        "Tiny",
        "tin",
        "tiny-",
        "-query",
        "query",
        "tiny-queries",
        "asks",
        "medium",
        "tiny ",
    ],
)
def test_what_is_unknown_lists_what_is_known(requested):
    known = "known: tiny, tiny-v2, big, own, asks-query, large, small, large, auto"
    with pytest.raises(UnknownModel, match=known) as refused:
        choose(RequestFacts(requested), CANDIDATES)
    assert repr(requested) in refused.value.message
    assert refused.value.param == "model"


@pytest.mark.parametrize(("requested", "meant"), [("Tiny-V2", "tiny-v2"), ("smal", "small")])
def test_what_is_nearly_known_is_pointed_out(requested, meant):
    with pytest.raises(UnknownModel, match=f"no model '{requested}' here, did you mean '{meant}'"):
        choose(RequestFacts(requested), CANDIDATES)


def test_a_job_may_name_a_model_whose_files_have_not_been_read():
    refusal = unknown_to_job("judge", CANDIDATES[:2], (Kind.RERANKER,))
    assert refusal.message.endswith("known: tiny, tiny-v2, small")


@pytest.mark.parametrize(
    ("from_name", "from_field", "agreed"),
    [
        (None, None, None),
        (QUERY, None, QUERY),
        (None, QUERY, QUERY),
        (QUERY, QUERY, QUERY),
        (DOCUMENT, None, DOCUMENT),
        (None, DOCUMENT, DOCUMENT),
        (DOCUMENT, DOCUMENT, DOCUMENT),
    ],
)
def test_name_and_field_agree(from_name, from_field, agreed):
    assert agree(from_name, from_field) is agreed


@pytest.mark.parametrize(("from_name", "from_field"), [(QUERY, DOCUMENT), (DOCUMENT, QUERY)])
def test_name_and_field_contradict_each_other(from_name, from_field):
    with pytest.raises(InvalidRequest, match=f'ends in "-{from_name}".*"{from_field}"') as refused:
        agree(from_name, from_field)
    assert refused.value.param == "input_type"
