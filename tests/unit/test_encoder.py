"""A replica without Ray: what it answers, what it says of itself, when it calls itself ill."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from deployments import encoder as encoder_module
from deployments.config import Limits, ModelConfig
from deployments.embedding.batch import Encoded, TokenBatch
from deployments.embedding.catalog import CATALOG
from deployments.embedding.errors import (
    EmbedfleetError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
)
from deployments.embedding.lanes import Lane
from deployments.embedding.model import ModelSpec
from deployments.embedding.pinning import Memory
from deployments.embedding.space import space_id
from deployments.embedding.worker import Worker
from deployments.encoder import Encoder
from deployments.status import ReplicaState, ReplicaStatus
from deployments.versions import OtherVersion, Terms

from .fake_engine import FakeEngine, vector_of
from .working import PATIENCE_S, hold, working

CONFIG = ModelConfig(name="all-MiniLM-L6-v2")
SPEC = CATALOG[CONFIG.name]


@dataclass
class Loaded:
    """Stands for `replica.LoadedModel`."""

    engine: FakeEngine
    worker: Worker
    device: str = "cpu"
    dtype: str = "float32"
    start_s: float = 1.5
    spec: ModelSpec = SPEC
    pass_s: float = 0.0
    gpu_ids: tuple[str, ...] = ()
    memory: Memory | None = None


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def worker(engine):
    with working(engine) as found:
        yield found


@pytest.fixture
def made(monkeypatch):
    """Makes an encoder whose model is loaded by ``load``."""
    encoders = []

    def make(load):
        fake = SimpleNamespace(load_model=lambda config, limits: load())
        monkeypatch.setitem(sys.modules, "deployments.replica", fake)
        encoders.append(Encoder(CONFIG, Limits()))
        return encoders[-1]

    yield make
    for encoder in encoders:
        encoder._model.stop()


@pytest.fixture
def encoder(made, engine, worker):
    return made(lambda: Loaded(engine, worker))


async def encode(encoder, *texts, lane="online", trial=None, space=None):
    batch = TokenBatch.from_lists(texts)
    terms = Terms(space or space_id(SPEC), trial)
    return await encoder.encode(batch.ids, batch.lengths, lane, PATIENCE_S, terms)


@pytest.mark.parametrize("lane", Lane)
async def test_token_ids_become_vectors(encoder, lane):
    found = await encode(encoder, [1, 2], [3], lane=lane.value)
    np.testing.assert_array_equal(found.vectors, [vector_of([1, 2]), vector_of([3])])


@pytest.mark.parametrize("ids", [[1_000], [-1]])
async def test_ids_out_of_the_vocabulary_never_reach_the_engine(encoder, engine, ids):
    assert isinstance(await encode(encoder, [1], ids), InvalidRequest)
    assert engine.passes == []


async def test_ids_made_for_another_space_never_reach_the_engine(encoder, engine):
    assert await encode(encoder, [1], space="other") == OtherVersion(CONFIG, space_id(SPEC))
    assert engine.passes == []


async def test_a_trial_notes_each_text_before_its_own_pass(encoder, engine, monkeypatch):
    noted = []
    monkeypatch.setattr(
        encoder_module.trials, "begin", lambda *a: noted.append((*a, len(engine.passes)))
    )
    monkeypatch.setattr(encoder_module.trials, "forget", noted.append)
    found = await encode(encoder, [1, 2], [3], trial="t")
    np.testing.assert_array_equal(found.vectors, [vector_of([1, 2]), vector_of([3])])
    assert engine.passes == [[1], [3]]
    assert noted == [("t", 0, 0), ("t", 1, 1), "t"]


async def test_a_refusal_comes_back_as_a_value(encoder, worker, monkeypatch):
    def refuse(*_):
        raise Overloaded("full", None, 1.0)

    monkeypatch.setattr(worker, "submit", refuse)
    found = await encode(encoder, [1])
    assert (type(found), found.retry_after_s) == (Overloaded, 1.0)


async def test_a_model_that_cannot_load_answers_with_the_reason(made):
    def fail():
        raise ModelUnavailable("the file is damaged")

    encoder = made(fail)
    found = await encode(encoder, [1])
    assert isinstance(found, ModelUnavailable)
    assert "the file is damaged" in found.message
    assert await encoder.status() == ReplicaStatus(ReplicaState.UNAVAILABLE, "the file is damaged")
    await encoder.check_health()  # it lives, and tries again


async def test_while_it_loads_it_says_so(made):
    loaded = threading.Event()
    encoder = made(lambda: None)
    encoder._model = encoder_module.Hosted(lambda: loaded.wait(PATIENCE_S) and None, "tiny")
    assert await encoder.status() == ReplicaStatus(ReplicaState.LOADING, "loading")
    await encoder.check_health()
    loaded.set()


async def test_a_ready_replica_says_what_it_is(encoder):
    ready = ReplicaStatus(ReplicaState.READY, None, "cpu", "float32", tokens_per_s=100)
    empty = {Lane.ONLINE: 0, Lane.OFFLINE: 0}
    assert await encoder.status() == replace(ready, waiting=empty, start_s=1.5)


async def test_it_says_which_gpu_it_has_and_how_much_of_it(encoder):
    model = encoder._model.value
    model.gpu_ids, model.memory = ("3",), Memory(3 * 2**30, 40 * 2**30)
    found = await encoder.status()
    assert (found.gpu_ids, found.memory_mib) == (("3",), (3_072, 40_960))


async def test_a_new_replica_is_tried_with_a_real_pass(encoder, engine):
    await encoder.check_health()
    assert len(engine.passes) == 1


async def test_a_busy_replica_needs_no_trial(encoder, engine):
    assert isinstance(await encode(encoder, [7]), Encoded)
    await encode(encoder, [8])  # by now the loop has written down the first
    await encoder.check_health()
    assert engine.passes == [[7], [8]]


@pytest.mark.parametrize(
    "error", [lambda: RuntimeError("CUDA error: device-side assert"), MemoryError]
)
async def test_a_failing_pass_makes_it_ill(encoder, engine, error):
    engine.poison, engine.error = int(encoder_module.sample(engine, 1, 8).ids[0]), error
    with pytest.raises(EmbedfleetError):
        await encoder.check_health()


async def test_a_hanging_pass_makes_it_ill(encoder, engine, worker, monkeypatch):
    monkeypatch.setattr(encoder_module, "_PROBE_TIMEOUT_S", 0.01)
    hold(worker, engine)
    with pytest.raises(TimeoutError):
        await encoder.check_health()


async def test_a_pass_that_hangs_makes_it_ill_without_a_trial(encoder, engine, worker):
    encoder.wedged_after_s = 0.0
    hold(worker, engine)
    time.sleep(0.01)
    with pytest.raises(RuntimeError, match="a forward pass hangs"):
        await encoder.check_health()


async def test_a_slow_model_is_given_time(encoder, engine, worker, monkeypatch):
    monkeypatch.setattr(encoder_module, "_needs_probe", lambda _: False)
    encoder.wedged_after_s = 0.0
    encoder._model.value.pass_s = 60.0
    hold(worker, engine)
    await encoder.check_health()


async def test_failures_in_a_row_lead_to_a_trial(encoder, engine):
    await encode(encoder, [7])
    engine.poison = 666
    for _ in range(3):
        await encode(encoder, [666])
    await encode(encoder, [666])  # by now the loop has written down the three before
    before = len(engine.passes)
    await encoder.check_health()  # the trial goes well: the texts were to blame
    assert len(engine.passes) == before + 1


async def test_an_ended_loop_makes_it_ill(encoder, worker):
    worker.stop()
    with pytest.raises(RuntimeError, match="the engine's loop has ended"):
        await encoder.check_health()
