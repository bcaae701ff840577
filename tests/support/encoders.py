"""A replica without Ray, around the fake engine; its fixtures are in `conftest`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from deployments.config.schema import Limits, ModelConfig
from deployments.core.batch import TokenBatch
from deployments.core.batching.batcher import Batcher
from deployments.core.engine.cuda.pinning import Memory
from deployments.core.models.catalog import CATALOG
from deployments.core.models.space import space_id
from deployments.core.models.spec import ModelSpec
from deployments.replica.deployment import Encoder
from deployments.wire.calls import Terms
from tests.support.batching import PATIENCE_S, working
from tests.support.fake_engine import FakeEngine

CONFIG = ModelConfig(name="all-MiniLM-L6-v2")
SPEC = CATALOG[CONFIG.name]


@dataclass
class Loaded:
    """Stands for `replica.LoadedModel`."""

    engine: FakeEngine
    batcher: Batcher
    device: str = "cpu"
    dtype: str = "float32"
    start_s: float = 1.5
    spec: ModelSpec = SPEC
    longest_pass_s: float = 0.0
    token_budget: int = 1_024
    gpu_ids: tuple[str, ...] = ()
    memory: Memory | None = None


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def batcher(engine):
    with working(engine) as found:
        yield found


@pytest.fixture
def made(monkeypatch):
    """Makes an encoder whose model is loaded by ``load``."""
    encoders = []

    def make(load):
        fake = SimpleNamespace(load_model=lambda config, limits: load())
        monkeypatch.setitem(sys.modules, "deployments.replica.loading", fake)
        encoders.append(Encoder(CONFIG, Limits()))
        return encoders[-1]

    yield make
    for encoder in encoders:
        encoder._model.stop()


@pytest.fixture
def encoder(made, engine, batcher):
    return made(lambda: Loaded(engine, batcher))


async def encode(encoder, *texts, lane="online", trial=None, space=None):
    batch = TokenBatch.from_lists(texts)
    terms = Terms(space or space_id(SPEC), trial)
    return await encoder.encode(batch.ids, batch.lengths, lane, PATIENCE_S, terms)
