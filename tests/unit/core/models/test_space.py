"""The identity of an embedding space: what changes it, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.core.models.catalog import CATALOG
from deployments.core.models.space import space_id
from deployments.core.models.spec import Pooling, Prompts, Side, Size, SpecialTokens

SPEC = CATALOG["e5-mistral-7b-instruct"]
PROMPTS = SPEC.prompts
CHANGES = {
    "revision": {"revision": "0" * 40},
    "query prompt": {"prompts": replace(PROMPTS, query="query: ")},
    "document prompt": {"prompts": replace(PROMPTS, document="passage: ")},
    "template": {"prompts": replace(PROMPTS, query_instruction="{instruction}: ")},
    "no prompts": {"prompts": Prompts()},
    "no special tokens": {"special_tokens": None},
    "no end token": {"special_tokens": SpecialTokens((1,), ())},
    "other first token": {"special_tokens": SpecialTokens((3,), (2,))},
    "pooling": {"pooling": Pooling.MEAN},
    "normalize": {"normalize": False},
    "lowercase": {"lowercase": True},
    "dimension": {"dimension": 1024},
}
SAME = {
    "name": {"name": "mine"},
    "repo": {"repo": "/models/mine"},
    "precision": {"dtypes": ("bfloat16",)},
    "default instruction": {"prompts": replace(PROMPTS, default_instruction="Find a duck")},
    "size": {"size": Size.SMALL},
    "max tokens": {"max_tokens": 512},
    "languages": {"languages": ("en", "de")},
    "licence": {"licence": "mit"},
    "prefixes": {"truncatable_dimensions": (256, 512), "truncatable_from": 32},
    "what is cut": {"truncation_side": Side.LEFT},
    "notices": {"notices": ("mind the gap",), "trust_remote_code": True},
    "where it is": {"package": "mine", "weights_sha256": "0" * 64},
}


def test_it_is_short_and_the_same_in_every_process():
    assert space_id(SPEC) == space_id(SPEC)
    assert len(space_id(SPEC)) == 12
    assert int(space_id(SPEC), 16)


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_it(change):
    others = {space_id(replace(SPEC, **fields)) for fields in CHANGES.values()}
    assert space_id(replace(SPEC, **CHANGES[change])) != space_id(SPEC)
    assert len(others) == len(CHANGES)


@pytest.mark.parametrize("detail", SAME)
def test_what_does_not_change_it(detail):
    assert space_id(replace(SPEC, **SAME[detail])) == space_id(SPEC)


@pytest.mark.parametrize(
    ("dimensions", "suffix"), [(None, ""), (4096, ""), (256, ":256"), (1, ":1")]
)
def test_a_prefix_is_a_space_of_its_own(dimensions, suffix):
    assert space_id(SPEC, dimensions) == space_id(SPEC) + suffix


def test_a_dimension_that_the_files_set_is_the_one_of_requests_that_do_not_say():
    cut = replace(SPEC, default_dimension=256)
    assert space_id(cut) == space_id(SPEC, 256)
    assert space_id(cut, 4096) == space_id(SPEC)


def test_models_of_the_catalog_share_no_space():
    assert len({space_id(spec) for spec in CATALOG.values()}) == len(CATALOG)
