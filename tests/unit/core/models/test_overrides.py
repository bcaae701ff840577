"""What a config says of a model replaces what its files and its card say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.core.errors import UnsupportedModel
from deployments.core.models.catalog import CATALOG
from deployments.core.models.overrides import NO_OVERRIDES, Overrides, applied
from deployments.core.models.prompts import Templates
from deployments.core.models.space import space_id
from deployments.core.models.spec import Prompts, Side

E5 = CATALOG["e5-small"]
INSTRUCT = CATALOG["multilingual-e5-large-instruct"]


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (Overrides(max_tokens=256), {"max_tokens": 256}),
        (Overrides(truncation_side=Side.LEFT), {"truncation_side": Side.LEFT}),
        (Overrides(normalize=False), {"normalize": False}),
        (Overrides(dimensions=(256, 128)), {"truncatable_dimensions": (128, 256)}),
        (
            Overrides(Templates(query="q: {text}")),
            {"prompts": Prompts(query="q: ", document="passage: ")},
        ),
    ],
)
def test_what_is_stated_changes_and_nothing_else(overrides, changes):
    assert applied(E5, overrides) == replace(E5, **changes)


def test_nothing_stated_changes_nothing():
    assert applied(E5, NO_OVERRIDES) == E5


@pytest.mark.parametrize(
    "overrides",
    [
        Overrides(Templates(query="{text}")),
        Overrides(Templates(document="{text}")),
        Overrides(Templates("Find {instruction}: {text}", "{text}", "a duck")),
        Overrides(normalize=False),
    ],
)
def test_another_prompt_or_normalisation_is_another_space(overrides):
    assert space_id(applied(E5, overrides)) != space_id(E5)


@pytest.mark.parametrize(
    "overrides",
    [
        Overrides(max_tokens=256),
        Overrides(truncation_side=Side.LEFT),
        Overrides(dimensions=(128,)),
        Overrides(Templates("query: {text}", "passage: {text}")),
    ],
)
def test_the_same_vectors_stay_in_the_same_space(overrides):
    assert space_id(applied(E5, overrides)) == space_id(E5)


@pytest.mark.parametrize(
    ("overrides", "positions", "field"),
    [
        (Overrides(max_tokens=513), 512, "max_tokens"),
        (Overrides(dimensions=(384,)), None, "dimensions"),
        (Overrides(dimensions=(128, 500)), None, "dimensions"),
        (Overrides(Templates(instruction="Find")), None, r"prompts\.instruction"),
    ],
)
def test_what_the_model_cannot_do_is_refused_by_field(overrides, positions, field):
    with pytest.raises(UnsupportedModel, match=f"^{field}: "):
        applied(E5, overrides, positions)


def test_more_tokens_than_the_card_recommends_are_allowed_where_there_are_positions():
    assert applied(E5, Overrides(max_tokens=512), 512).max_tokens == 512
    assert applied(replace(E5, max_tokens=256), Overrides(max_tokens=512), None).max_tokens == 512


def test_an_instruct_model_gets_another_default():
    spec = applied(INSTRUCT, Overrides(Templates(instruction="Find a duck")))
    assert spec.prompts == replace(INSTRUCT.prompts, default_instruction="Find a duck")
    assert space_id(spec) == space_id(INSTRUCT)  # it searches the same documents


def test_remote_code_is_named():
    spec = applied(E5, Overrides(trust_remote_code=True))
    assert spec.trust_remote_code
    assert len(spec.notices) == 1
    assert E5.repo in spec.notices[0]
    assert E5.revision in spec.notices[0]
