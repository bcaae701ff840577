"""Importing a file loads no more than its floor may: the engine runs where there is no Ray."""

from __future__ import annotations

import pytest

from tests.support.importing import importing, loaded

HTTP = {"starlette", "fastapi", "uvicorn", "aiohttp"}
HEAVY = {"torch", "transformers"}


def test_the_engine_loads_neither_ray_nor_a_server(engine_import):
    found = loaded(engine_import)
    assert found >= HEAVY
    assert found.isdisjoint({"ray", *HTTP})


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (
            "deployments.core.models.tokenizer, deployments.core.routing.policy",
            {"ray", *HEAVY, *HTTP},
        ),
        (
            "deployments.core.models.catalog, deployments.core.models.space",
            {"ray", *HEAVY, *HTTP},
        ),
        (
            "deployments.core.batching.batcher, deployments.core.engine.warmup",
            {"ray", *HEAVY, *HTTP},
        ),
        ("deployments.replica.loaded_model", HEAVY),
        ("deployments.api.app", {"ray", *HEAVY}),
    ],
)
def test_what_stays_out(modules, absent):
    assert loaded(importing(modules)).isdisjoint(absent)
