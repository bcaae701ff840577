"""A replica without Ray: its answers, its status and its reports."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest

from deployments.config.schema import ModelConfig
from deployments.core.engine.cuda.pinning import Memory
from deployments.core.errors import InvalidRequest, ModelUnavailable, Overloaded, TextFailed
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.replica import deployment as encoder_module
from deployments.replica.deployment import Siblings
from deployments.wire.calls import OtherVersion
from deployments.wire.status import ReplicaState, ReplicaStatus
from tests.support.batching import PATIENCE_S, hold
from tests.support.encoders import CONFIG, SPEC, encode, loaded
from tests.support.fake_engine import vector_of

PINNED = CONFIG.model_copy(update={"revision": SPEC.revision})


@pytest.mark.parametrize("lane", Lane)
async def test_token_ids_become_vectors(encoder, lane):
    actual = await encode(encoder, [1, 2], [3], lane=lane.value)
    np.testing.assert_array_equal(actual.vectors, [vector_of([1, 2]), vector_of([3])])


@pytest.mark.parametrize("ids", [[1_000], [-1]])
async def test_ids_outside_the_vocabulary_never_reach_the_engine(encoder, engine, ids):
    assert isinstance(await encode(encoder, ids), InvalidRequest)
    assert isinstance(await encode(encoder, [1], ids, trial="t"), InvalidRequest)
    assert engine.passes == []


async def test_a_text_outside_the_vocabulary_does_not_fail_its_neighbours(encoder, engine):
    engine.poison = 7
    actual = await encode(encoder, [1], [1_000], [7], [2])
    np.testing.assert_array_equal(actual.vectors[[0, 3]], [vector_of([1]), vector_of([2])])
    assert {row: type(error) for row, error in actual.errors.items()} == {
        1: InvalidRequest,
        2: TextFailed,
    }


async def test_ids_made_for_another_space_never_reach_the_engine(encoder, engine):
    assert await encode(encoder, [1], space="other") == OtherVersion(PINNED, space_id(SPEC))
    assert engine.passes == []


async def test_another_version_comes_with_the_commit_that_was_loaded(encoder, tmp_path):
    hub = ModelConfig(name="acme/tiny")
    folder = ModelConfig(name="tiny", path=str(tmp_path))
    encoder._config = hub
    assert (await encode(encoder, [1], space="other")).config.revision == SPEC.revision
    encoder._config = folder  # its clients look at their own files
    assert (await encode(encoder, [1], space="other")).config == folder


async def test_a_trial_records_each_text_during_its_own_pass(encoder, engine, monkeypatch):
    records = []
    monkeypatch.setattr(
        encoder_module.trials, "begin", lambda *a: records.append((*a, len(engine.passes)))
    )
    actual = await encode(encoder, [1, 2], [3], trial="t")
    np.testing.assert_array_equal(actual.vectors, [vector_of([1, 2]), vector_of([3])])
    assert engine.passes == [[1], [3]]
    assert records == [("t", 0, 0), ("t", None, 1), ("t", 1, 1), ("t", None, 2)]


async def test_a_refusal_is_returned_and_not_raised(encoder, batcher, monkeypatch):
    def refuse(*_, **__):
        raise Overloaded("full", None, 1.0)

    monkeypatch.setattr(batcher, "submit", refuse)
    actual = await encode(encoder, [1])
    assert (type(actual), actual.retry_after_s) == (Overloaded, 1.0)


async def test_a_replica_that_cannot_load_answers_with_the_reason(make_encoder):
    def fail():
        raise ModelUnavailable("the file is damaged")

    encoder = make_encoder(fail)
    actual = await encode(encoder, [1])
    assert isinstance(actual, ModelUnavailable)
    assert "the file is damaged" in actual.message
    assert await encoder.status() == ReplicaStatus(ReplicaState.UNAVAILABLE, "the file is damaged")
    await encoder.check_health()  # it is healthy, and tries again
    assert encoder.record_autoscaling_stats() == {}


class Others:
    """Stands for `Siblings`: returns these answers one after the other."""

    def __init__(self, *ready):
        self.answers = list(ready)

    def __call__(self):
        return self

    async def any_ready(self):
        return self.answers.pop(0)


async def test_it_takes_no_calls_while_another_replica_has_the_model(make_encoder, monkeypatch):
    def fail():
        raise ModelUnavailable("the file is damaged")

    others = Others(True, True, False)
    monkeypatch.setattr(encoder_module, "Siblings", others)
    monkeypatch.setattr(encoder_module, "_SIBLINGS_EVERY_S", 0.01)
    assert isinstance(await encode(make_encoder(fail), [1]), ModelUnavailable)
    assert others.answers == []


async def test_a_replica_with_its_model_looks_for_no_others(
    make_encoder, engine, batcher, monkeypatch
):
    monkeypatch.setattr(encoder_module, "Siblings", Others())
    encoder = make_encoder(lambda: loaded(engine, batcher))
    await encoder.check_health()


async def test_a_replica_that_cannot_load_is_unhealthy_if_another_could(make_encoder, monkeypatch):
    def fail():
        raise ModelUnavailable("the file is damaged")

    monkeypatch.setattr(encoder_module, "Siblings", Others(False, False, True))
    encoder = make_encoder(fail)
    await encoder.check_health()
    with pytest.raises(RuntimeError, match="the file is damaged"):
        await encoder.check_health()


async def test_outside_serve_there_are_no_siblings():
    assert not await Siblings().any_ready()


async def test_its_status_while_it_loads(make_encoder):
    loaded = threading.Event()
    encoder = make_encoder(lambda: None)
    encoder._model = encoder_module.BackgroundLoader(
        lambda: loaded.wait(PATIENCE_S) and None, "tiny"
    )
    assert await encoder.status() == ReplicaStatus(ReplicaState.LOADING, "loading")
    await encoder.check_health()
    loaded.set()


async def test_its_status_once_it_is_ready(encoder):
    ready = ReplicaStatus(
        ReplicaState.READY, None, "cpu", "float32", tokens_per_s=100, token_budget=1_024, streams=1
    )
    empty = {Lane.ONLINE: 0, Lane.OFFLINE: 0}
    space = space_id(SPEC)
    assert await encoder.status() == replace(ready, waiting=empty, start_s=1.5, space=space)


async def test_it_reports_what_arrived_and_what_waits(encoder, engine, batcher):
    await encode(encoder, [1, 2], [3])
    await encode(encoder, [4], lane="offline")
    hold(batcher, engine)
    waiting = asyncio.ensure_future(encode(encoder, [5, 6], lane="offline"))
    await asyncio.sleep(0)
    assert encoder.record_autoscaling_stats() == {
        "arrived_online": 3,
        "arrived_offline": 3,
        "waiting_online": 0,
        "waiting_offline": 2,
        "tokens_per_s": batcher.tokens_per_s,
        "start_s": 1.5,
    }
    engine.release.set()
    await waiting


async def test_refused_work_counts_as_arrived(encoder, batcher, monkeypatch):
    def refuse(*_, **__):
        raise Overloaded("full", None, 1.0)

    monkeypatch.setattr(batcher, "submit", refuse)
    await encode(encoder, [1, 2])
    assert encoder.record_autoscaling_stats()["arrived_online"] == 2


async def test_status_and_health_checks_do_not_count_as_work(encoder):
    await encoder.status()
    await encoder.check_health()
    assert encoder.record_autoscaling_stats()["arrived_online"] == 0


async def test_its_status_includes_its_gpu_and_memory(make_encoder, engine, batcher):
    memory = Memory(3 * 2**30, 40 * 2**30)
    encoder = make_encoder(lambda: loaded(engine, batcher, gpu_ids=("3",), memory=memory))
    status = await encoder.status()
    assert (status.gpu_ids, status.memory_mib) == (("3",), (3_072, 40_960))
