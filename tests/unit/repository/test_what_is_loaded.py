"""Importing a file loads no more than its layer may: the engine and its benchmark run without Ray."""

from __future__ import annotations

import pytest

from tests.support.importing import importing, loaded

HTTP = {"starlette", "fastapi", "uvicorn", "aiohttp"}
HEAVY = {"torch", "transformers"}


def test_the_engine_and_its_benchmark_load_neither_ray_nor_a_server():
    packages = loaded(importing("deployments.core.engine.engine, benchmarks.engine"))
    assert packages >= HEAVY
    assert packages.isdisjoint({"ray", "pydantic", "sentencepiece", *HTTP})


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
