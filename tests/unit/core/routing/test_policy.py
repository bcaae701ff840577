"""The policy, case by case: who answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.core.errors import ModelNotAllowed, UnknownModel
from deployments.core.lane import Lane
from deployments.core.routing.facts import Aim, RequestFacts
from deployments.core.routing.policy import choose
from tests.support.policy_fleet import (
    ALL,
    BROKEN,
    BUSIER,
    BUSY,
    COLD,
    IDLE,
    LONG,
    MANY,
    NESTED,
    OFFLINE_BUSY,
    QUICK,
    SOON,
    WIDE,
    long_text,
)

ANSWERED = {
    # languages
    "short English": (RequestFacts("auto"), {}, "small-en"),
    "English for sure": (RequestFacts("auto", languages=frozenset({"en"})), {}, "small-en"),
    "Korean": (RequestFacts("auto", languages=frozenset({"ko"})), {}, "many"),
    "Chinese": (RequestFacts("auto", languages=frozenset({"zh"})), {}, "many"),
    "Korean and English": (RequestFacts("auto", languages=frozenset({"ko", "en"})), {}, "many"),
    "Norwegian by its other name": (RequestFacts("auto", languages=frozenset({"nb"})), {}, "many"),
    "languages not stated": (RequestFacts("auto", languages=frozenset({"th"})), {}, "own"),
    "Korean, stated goes before busy": (
        RequestFacts("auto", languages=frozenset({"ko"})),
        {"many": IDLE, "own": BUSY},
        "many",
    ),
    # lengths
    "at the limit": (RequestFacts("auto", longest=long_text(512)), {}, "small-en"),
    "over the limit of most": (RequestFacts("auto", longest=long_text(513)), {}, "long"),
    "3,000 tokens": (RequestFacts("auto", longest=long_text(3_000)), {}, "long"),
    "truncate prefers not to": (
        RequestFacts("auto", longest=long_text(600), truncate=True),
        {},
        "long",
    ),
    "truncate where all would cut": (
        RequestFacts("auto", longest=long_text(9_000), truncate=True),
        {},
        "small-en",
    ),
    # dimensions, instruction, token ids
    "its dimension": (RequestFacts("auto", dimensions=16), {}, "many"),
    "a Matryoshka prefix": (RequestFacts("auto", dimensions=4), {}, "nested"),
    "the common dimension": (RequestFacts("auto", dimensions=8), {}, "small-en"),
    "an instruction": (RequestFacts("auto", instruction="Find it"), {}, "many"),
    "an instruction, long": (
        RequestFacts("auto", instruction="Find it", longest=long_text(600)),
        {},
        "long",
    ),
    "token ids by name": (RequestFacts("auto", tokenizer="nested"), {}, "nested"),
    "token ids by hub id": (RequestFacts("auto", tokenizer="acme/long"), {}, "long"),
    # states
    "one is broken": (RequestFacts("auto"), {"small-en": BROKEN}, "many"),
    "one is cold": (RequestFacts("auto"), {"small-en": COLD}, "many"),
    "one starts soon enough, but others are there": (
        RequestFacts("auto"),
        {"small-en": SOON},
        "many",
    ),
    "offline work waits for a start": (
        RequestFacts("auto", lane=Lane.OFFLINE, dimensions=16),
        {"many": COLD},
        "many",
    ),
    "nothing else fits, so it is started": (
        RequestFacts("auto", dimensions=16),
        {"many": COLD},
        "many",
    ),
    "best does not wait for a start": (RequestFacts("auto", aim=Aim.BEST), {"long": COLD}, "many"),
    # aims
    "best": (RequestFacts("auto", aim=Aim.BEST), {}, "long"),
    "best, busy or not": (RequestFacts("auto", aim=Aim.BEST), {"long": BUSY}, "long"),
    "fast, all alike": (RequestFacts("auto", aim=Aim.FAST), {}, "small-en"),
    "fast goes by speed": (
        RequestFacts("auto", aim=Aim.FAST, tokens=100),
        {"small-en": IDLE, "long": QUICK},
        "long",
    ),
    "fast goes by wait": (RequestFacts("auto", aim=Aim.FAST), {"small-en": BUSY}, "many"),
    "balanced takes the smallest": (RequestFacts("auto", aim=Aim.BALANCED), {}, "small-en"),
    "balanced leaves a busy one": (RequestFacts("auto"), {"small-en": BUSY}, "many"),
    "balanced, all busy": (
        RequestFacts("auto"),
        dict.fromkeys([c.name for c in ALL], BUSIER) | {"long": BUSY},
        "long",
    ),
    "offline work is not in an online text's way": (
        RequestFacts("auto"),
        {"small-en": OFFLINE_BUSY},
        "small-en",
    ),
    "offline work waits for both lanes": (
        RequestFacts("auto", lane=Lane.OFFLINE),
        {"small-en": OFFLINE_BUSY},
        "many",
    ),
    # max_latency_ms: the best that fits
    "plenty of time": (RequestFacts("auto", max_latency_ms=1e6), {"long": BUSY}, "long"),
    "the large one would be late": (
        RequestFacts("auto", max_latency_ms=100),
        {"long": BUSY},
        "many",
    ),
    "only the small one is in time": (
        RequestFacts("auto", max_latency_ms=100),
        {"long": BUSY, "many": BUSY, "nested": BUSY, "own": BUSY},
        "small-en",
    ),
    "none is in time": (
        RequestFacts("auto", max_latency_ms=1),
        dict.fromkeys([c.name for c in ALL], BUSIER) | {"many": BUSY},
        "many",
    ),
    "in time, and another aim": (
        RequestFacts("auto", max_latency_ms=100, aim=Aim.BALANCED),
        {"long": BUSY},
        "small-en",
    ),
    "the forward pass counts": (
        RequestFacts("auto", max_latency_ms=100, tokens=500),
        dict.fromkeys([c.name for c in ALL], IDLE) | {"nested": QUICK},
        "nested",
    ),
    "a text has one stream where others are busy": (
        RequestFacts("auto", aim=Aim.FAST, tokens=500, largest=500),
        {"small-en": replace(WIDE, waiting={Lane.OFFLINE: 10})},
        "many",
    ),
    "and all of them where they are idle": (
        RequestFacts("auto", aim=Aim.FAST, tokens=500, largest=500),
        {"small-en": WIDE},
        "small-en",
    ),
    "many texts have all streams": (
        RequestFacts("auto", aim=Aim.FAST, tokens=500, largest=50),
        {"small-en": replace(WIDE, waiting={Lane.OFFLINE: 10})},
        "small-en",
    ),
    "a cold start counts": (
        RequestFacts("auto", max_latency_ms=100, lane=Lane.OFFLINE),
        {"long": COLD},
        "many",
    ),
    # names and sizes mean one model, whatever the load
    "a name": (RequestFacts("long"), {"long": BUSY}, "long"),
    "a hub id": (RequestFacts("acme/long"), {}, "long"),
    "a size": (RequestFacts("medium"), {"many": BUSIER}, "many"),
    "a size of several, in the space required": (
        RequestFacts("medium", space=NESTED.own_space()),
        {},
        "nested",
    ),
    "a broken one by name": (RequestFacts("small-en"), {"small-en": BROKEN}, "small-en"),
    "a name against its language": (
        RequestFacts("small-en", languages=frozenset({"ko"})),
        {},
        "small-en",
    ),
    "nothing": (RequestFacts(), {}, "small-en"),
    # a required space
    "its own space": (RequestFacts("auto", space=LONG.own_space()), {}, "long"),
    "its own space, busy": (RequestFacts("auto", space=LONG.own_space()), {"long": BUSIER}, "long"),
    "a space alone": (RequestFacts(space=MANY.own_space()), {}, "many"),
    "a space and its dimensions": (
        RequestFacts("auto", space=NESTED.own_space(4), dimensions=4),
        {},
        "nested",
    ),
}


@pytest.mark.parametrize("case", ANSWERED)
def test_who_answers(case):
    facts, loads, expected = ANSWERED[case]
    actual = choose(facts, ALL, loads)
    assert actual.model == expected, actual
    assert set(actual.passed_over) == {c.name for c in ALL} - {expected}
    assert all(actual.passed_over.values())


def test_models_that_the_caller_may_not_use_are_passed_over_and_refused_by_name():
    facts = RequestFacts("auto", models=frozenset({"many"}))
    decision = choose(facts, ALL)
    assert (decision.model, decision.failover, decision.passed_over) == ("many", (), {})
    for name in ("small-en", "small-en-query"):
        with pytest.raises(ModelNotAllowed) as refused:
            choose(replace(facts, requested=name), ALL)
        assert refused.value.param == "model"
        assert "small-en" not in refused.value.message.split("but only")[1]
    with pytest.raises(UnknownModel):
        choose(replace(facts, requested="nothing"), ALL)
