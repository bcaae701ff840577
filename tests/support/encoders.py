"""A replica without Ray, around the fake engine. `tests/unit/conftest.py` imports the fixtures."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.config.schema import Limits, ModelConfig
from deployments.core.batch import TokenBatch
from deployments.core.batching.batcher import Batcher
from deployments.core.models.catalog import CATALOG
from deployments.core.models.space import space_id
from deployments.replica.deployment import Encoder
from deployments.replica.loaded_model import LoadedModel
from deployments.wire.calls import Terms
from tests.support.batching import PATIENCE_S, working
from tests.support.fake_engine import FakeEngine

CONFIG = ModelConfig(name="all-MiniLM-L6-v2")
SPEC = CATALOG[CONFIG.name]


def loaded(engine: FakeEngine, batcher: Batcher, **fields: Any) -> LoadedModel:
    """Returns a loaded model around the fake engine."""
    usual = {"device": "cpu", "dtype": "float32", "start_s": 1.5, "token_budget": 1_024}
    return LoadedModel(SPEC, engine, batcher, **{**usual, **fields})


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def batcher(engine):
    with working(engine) as batcher:
        yield batcher


@pytest.fixture
def make_encoder():
    """Makes an encoder whose model is what ``load`` returns."""
    encoders = []

    def make(load):
        class Loading(Encoder):
            def load(self, config, limits):
                return load()

        encoders.append(Loading(CONFIG, Limits()))
        return encoders[-1]

    yield make
    for encoder in encoders:
        encoder._model.stop()


@pytest.fixture
def encoder(make_encoder, engine, batcher):
    return make_encoder(lambda: loaded(engine, batcher))


async def encode(encoder, *texts, lane="online", trial=None, space=None):
    batch = TokenBatch.from_lists(texts)
    terms = Terms(space or space_id(SPEC), trial)
    return await encoder.encode(batch.ids, batch.lengths, lane, PATIENCE_S, terms)
