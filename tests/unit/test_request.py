"""Which output dimensions a model gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.embedding.errors import InvalidRequest
from deployments.embedding.models.catalog import CATALOG
from deployments.embedding.request import check_dimensions

WHOLE = CATALOG["e5-small"]
NESTED = replace(WHOLE, truncatable_dimensions=(256, 64))


@pytest.mark.parametrize(
    ("spec", "asked", "given"),
    [
        (WHOLE, None, 384),
        (WHOLE, 384, 384),
        (NESTED, None, 384),
        (NESTED, 384, 384),
        (NESTED, 256, 256),
        (NESTED, 64, 64),
    ],
)
def test_what_a_model_gives(spec, asked, given):
    assert check_dimensions(spec, asked) == given


@pytest.mark.parametrize(
    ("spec", "asked", "advice"),
    [
        (WHOLE, 0, "384 dimensions, and was not trained to be cut"),
        (WHOLE, 383, "384 dimensions, and was not trained to be cut"),
        (WHOLE, 385, "384 dimensions, and was not trained to be cut"),
        (NESTED, 128, "gives 64, 256, 384 dimensions"),
        (NESTED, -64, "gives 64, 256, 384 dimensions"),
    ],
)
def test_what_it_does_not(spec, asked, advice):
    with pytest.raises(InvalidRequest, match=f"{advice}.*; not {asked}") as refused:
        check_dimensions(spec, asked)
    assert refused.value.param == "dimensions"
