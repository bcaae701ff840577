"""A replica without Ray: what it answers, what it says of itself, when it calls itself ill."""

from __future__ import annotations

import asyncio
import sys
import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from deployments import encoder as encoder_module
from deployments.config import Limits, ModelConfig
from deployments.embedding.batch import Encoded, TokenBatch
from deployments.embedding.errors import (
    EmbedfleetError,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
)
from deployments.embedding.lanes import Lane
from deployments.embedding.worker import Worker
from deployments.encoder import Encoder
from deployments.status import ReplicaState, ReplicaStatus

from .fake_engine import FakeEngine, vector_of
from .working import PATIENCE_S, hold, working

CONFIG = ModelConfig(name="all-MiniLM-L6-v2")


@dataclass
class Loaded:
    """Stands for `replica.LoadedModel`."""

    engine: FakeEngine
    worker: Worker
    device: str = "cpu"
    dtype: str = "float32"
    start_s: float = 1.5


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


async def encode(encoder, *texts, lane="online"):
    batch = TokenBatch.from_lists(texts)
    return await encoder.encode(batch.ids, batch.lengths, lane, PATIENCE_S)


@pytest.mark.parametrize("lane", Lane)
async def test_token_ids_become_vectors(encoder, lane):
    found = await encode(encoder, [1, 2], [3], lane=lane.value)
    np.testing.assert_array_equal(found.vectors, [vector_of([1, 2]), vector_of([3])])


@pytest.mark.parametrize("ids", [[1_000], [-1]])
async def test_ids_out_of_the_vocabulary_never_reach_the_engine(encoder, engine, ids):
    assert isinstance(await encode(encoder, [1], ids), InvalidRequest)
    assert engine.passes == []


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
    assert encoder.record_autoscaling_stats() == {}


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


async def test_it_reports_what_was_asked_of_it_and_what_waits(encoder, engine, worker):
    await encode(encoder, [1, 2], [3])
    await encode(encoder, [4], lane="offline")
    hold(worker, engine)
    waiting = asyncio.ensure_future(encode(encoder, [5, 6], lane="offline"))
    await asyncio.sleep(0)
    assert encoder.record_autoscaling_stats() == {
        "asked_online": 3,
        "asked_offline": 3,
        "waiting_online": 0,
        "waiting_offline": 2,
        "tokens_per_s": worker.tokens_per_s,
        "start_s": 1.5,
    }
    engine.release.set()
    await waiting


async def test_work_that_is_refused_counts_as_asked(encoder, worker, monkeypatch):
    def refuse(*_):
        raise Overloaded("full", None, 1.0)

    monkeypatch.setattr(worker, "submit", refuse)
    await encode(encoder, [1, 2])
    assert encoder.record_autoscaling_stats()["asked_online"] == 2


async def test_looking_at_it_is_not_work(encoder):
    await encoder.status()
    await encoder.check_health()
    assert encoder.record_autoscaling_stats()["asked_online"] == 0


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
