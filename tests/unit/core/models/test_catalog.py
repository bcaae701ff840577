"""The catalog's entries keep the rules that all of them share."""

from __future__ import annotations

import re

import pytest

from deployments.core.models.catalog import CATALOG, by_name_or_repo
from deployments.core.models.spec import Pooling, Size

SPECS = list(CATALOG.values())
INSTRUCT = {"multilingual-e5-large-instruct", "e5-mistral-7b-instruct", "linq-embed-mistral"}


def test_the_shipped_models():
    assert list(CATALOG) == [
        "all-MiniLM-L6-v2",
        "e5-small",
        "e5-small-v2",
        "multilingual-e5-large-instruct",
        "e5-mistral-7b-instruct",
        "linq-embed-mistral",
    ]


@pytest.mark.parametrize("spec", SPECS, ids=list(CATALOG))
def test_an_entry_is_pinned_and_whole(spec):
    assert CATALOG[spec.name] is spec
    assert re.fullmatch("[0-9a-f]{40}", spec.revision)
    assert re.fullmatch(r"[\w-]+/[\w.-]+", spec.repo)
    assert spec.languages
    assert all(re.fullmatch("[a-z]{2}", language) for language in spec.languages)
    assert spec.licence != "unknown"
    assert spec.normalize
    assert not spec.name.endswith(("-query", "-document"))
    assert spec.name not in list(Size)


@pytest.mark.parametrize("spec", SPECS, ids=list(CATALOG))
def test_instruct_models_have_a_template_and_a_default(spec):
    assert spec.takes_instruction == (spec.name in INSTRUCT)
    assert (spec.prompts.default_instruction is not None) == spec.takes_instruction
    if spec.takes_instruction:
        assert spec.prompts.query_instruction.count("{instruction}") == 1
        assert spec.prompts.document == ""


@pytest.mark.parametrize("spec", SPECS, ids=list(CATALOG))
def test_mistral_models_pool_the_end_token_that_they_must_have(spec):
    is_mistral = spec.backbone == "mistral"
    assert (spec.pooling is Pooling.LAST_TOKEN) == is_mistral
    assert (spec.special_tokens is not None) == is_mistral
    if is_mistral:
        assert (spec.special_tokens.first, spec.special_tokens.last) == ((1,), (2,))


@pytest.mark.parametrize("spec", [s for s in SPECS if s.published_example], ids=lambda s: s.name)
def test_published_scores_have_their_inputs(spec):
    example = spec.published_example
    assert len(example.scores) == len(example.queries)
    assert all(len(row) == len(example.documents) for row in example.scores)
    assert all(abs(score) <= example.scale for row in example.scores for score in row)
    assert (example.instruction is not None) == spec.takes_instruction


@pytest.mark.parametrize("spec", SPECS, ids=list(CATALOG))
def test_an_entry_is_found_by_name_and_by_hub_id(spec):
    assert by_name_or_repo(spec.name) is spec
    assert by_name_or_repo(spec.repo) is spec


@pytest.mark.parametrize("name", ["", "e5", "intfloat", "E5-small", "intfloat/e5"])
def test_what_is_not_in_it(name):
    assert by_name_or_repo(name) is None


def test_dimensions_are_smallest_first():
    assert SPECS[0].dimensions == (384,)
    assert all(spec.dimensions[-1] == spec.dimension for spec in SPECS)
