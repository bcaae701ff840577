"""A replica without Ray: what it answers and what it says of itself."""

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
from tests.support.encoders import CONFIG, SPEC, Loaded, encode
from tests.support.fake_engine import vector_of

PINNED = CONFIG.model_copy(update={"revision": SPEC.revision})


@pytest.mark.parametrize("lane", Lane)
async def test_token_ids_become_vectors(encoder, lane):
    found = await encode(encoder, [1, 2], [3], lane=lane.value)
    np.testing.assert_array_equal(found.vectors, [vector_of([1, 2]), vector_of([3])])


@pytest.mark.parametrize("ids", [[1_000], [-1]])
async def test_ids_out_of_the_vocabulary_never_reach_the_engine(encoder, engine, ids):
    assert isinstance(await encode(encoder, ids), InvalidRequest)
    assert isinstance(await encode(encoder, [1], ids, trial="t"), InvalidRequest)
    assert engine.passes == []


async def test_a_text_out_of_the_vocabulary_takes_no_neighbour_with_it(encoder, engine):
    engine.poison = 7
    found = await encode(encoder, [1], [1_000], [7], [2])
    np.testing.assert_array_equal(found.vectors[[0, 3]], [vector_of([1]), vector_of([2])])
    assert {row: type(error) for row, error in found.errors.items()} == {
        1: InvalidRequest,
        2: TextFailed,
    }


async def test_ids_made_for_another_space_never_reach_the_engine(encoder, engine):
    assert await encode(encoder, [1], space="other") == OtherVersion(PINNED, space_id(SPEC))
    assert engine.passes == []


async def test_who_has_other_files_is_told_the_commit_that_was_loaded(encoder, tmp_path):
    hub = ModelConfig(name="acme/tiny")
    folder = ModelConfig(name="tiny", path=str(tmp_path))
    encoder._config = hub
    assert (await encode(encoder, [1], space="other")).config.revision == SPEC.revision
    encoder._config = folder  # whose files have to be looked at
    assert (await encode(encoder, [1], space="other")).config == folder


async def test_a_trial_notes_each_text_for_the_time_of_its_own_pass(encoder, engine, monkeypatch):
    noted = []
    monkeypatch.setattr(
        encoder_module.trials, "begin", lambda *a: noted.append((*a, len(engine.passes)))
    )
    found = await encode(encoder, [1, 2], [3], trial="t")
    np.testing.assert_array_equal(found.vectors, [vector_of([1, 2]), vector_of([3])])
    assert engine.passes == [[1], [3]]
    assert noted == [("t", 0, 0), ("t", None, 1), ("t", 1, 1), ("t", None, 2)]


async def test_a_refusal_comes_back_as_a_value(encoder, batcher, monkeypatch):
    def refuse(*_):
        raise Overloaded("full", None, 1.0)

    monkeypatch.setattr(batcher, "submit", refuse)
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


class Others:
    """Stands for `Siblings`: whether another replica has the model, look by look."""

    def __init__(self, *ready):
        self.looks = list(ready)

    def __call__(self):
        return self

    async def any_ready(self):
        return self.looks.pop(0)


async def test_it_stands_back_while_another_replica_has_the_model(made, monkeypatch):
    def fail():
        raise ModelUnavailable("the file is damaged")

    others = Others(True, True, False)
    monkeypatch.setattr(encoder_module, "Siblings", others)
    monkeypatch.setattr(encoder_module, "_LOOK_S", 0.01)
    assert isinstance(await encode(made(fail), [1]), ModelUnavailable)
    assert others.looks == []


async def test_one_that_could_load_has_no_need_to_look(made, engine, batcher, monkeypatch):
    monkeypatch.setattr(encoder_module, "Siblings", Others())
    encoder = made(lambda: Loaded(engine, batcher))
    await encoder.check_health()


async def test_one_that_cannot_load_is_ill_where_another_could(made, monkeypatch):
    def fail():
        raise ModelUnavailable("the file is damaged")

    monkeypatch.setattr(encoder_module, "Siblings", Others(False, False, True))
    encoder = made(fail)
    await encoder.check_health()
    with pytest.raises(RuntimeError, match="elsewhere it was: the file is damaged"):
        await encoder.check_health()


async def test_outside_of_serve_there_are_no_others():
    assert not await Siblings().any_ready()


async def test_while_it_loads_it_says_so(made):
    loaded = threading.Event()
    encoder = made(lambda: None)
    encoder._model = encoder_module.BackgroundLoader(
        lambda: loaded.wait(PATIENCE_S) and None, "tiny"
    )
    assert await encoder.status() == ReplicaStatus(ReplicaState.LOADING, "loading")
    await encoder.check_health()
    loaded.set()


async def test_a_ready_replica_says_what_it_is(encoder):
    ready = ReplicaStatus(
        ReplicaState.READY, None, "cpu", "float32", tokens_per_s=100, token_budget=1_024, streams=1
    )
    empty = {Lane.ONLINE: 0, Lane.OFFLINE: 0}
    assert await encoder.status() == replace(ready, waiting=empty, start_s=1.5)


async def test_it_reports_what_was_asked_of_it_and_what_waits(encoder, engine, batcher):
    await encode(encoder, [1, 2], [3])
    await encode(encoder, [4], lane="offline")
    hold(batcher, engine)
    waiting = asyncio.ensure_future(encode(encoder, [5, 6], lane="offline"))
    await asyncio.sleep(0)
    assert encoder.record_autoscaling_stats() == {
        "asked_online": 3,
        "asked_offline": 3,
        "waiting_online": 0,
        "waiting_offline": 2,
        "tokens_per_s": batcher.tokens_per_s,
        "start_s": 1.5,
    }
    engine.release.set()
    await waiting


async def test_work_that_is_refused_counts_as_asked(encoder, batcher, monkeypatch):
    def refuse(*_):
        raise Overloaded("full", None, 1.0)

    monkeypatch.setattr(batcher, "submit", refuse)
    await encode(encoder, [1, 2])
    assert encoder.record_autoscaling_stats()["asked_online"] == 2


async def test_looking_at_it_is_not_work(encoder):
    await encoder.status()
    await encoder.check_health()
    assert encoder.record_autoscaling_stats()["asked_online"] == 0


async def test_it_says_which_gpu_it_has_and_how_much_of_it(encoder):
    model = encoder._model.value
    model.gpu_ids, model.memory = ("3",), Memory(3 * 2**30, 40 * 2**30)
    found = await encoder.status()
    assert (found.gpu_ids, found.memory_mib) == (("3",), (3_072, 40_960))
