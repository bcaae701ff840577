"""Which output dimensions a model gives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployments.core.errors import InvalidRequest
from deployments.core.models.catalog import CATALOG
from deployments.core.request import check_dimensions

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
        (WHOLE, 0, "gives 384 dimensions .if it was trained to be cut"),
        (WHOLE, 383, "its `dimensions` in the config"),
        (WHOLE, 385, "gives 384 dimensions, not 385"),
        (NESTED, 128, "gives 64 or 256 or 384 dimensions"),
        (NESTED, -64, "gives 64 or 256 or 384 dimensions"),
    ],
)
def test_what_it_does_not(spec, asked, advice):
    with pytest.raises(InvalidRequest, match=advice) as refused:
        check_dimensions(spec, asked)
    assert refused.value.param == "dimensions"
