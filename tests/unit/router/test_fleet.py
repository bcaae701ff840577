"""A model's state, from Serve's controller, one of its replicas, and the cluster's nodes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from deployments.config.schema import Autoscaling, ModelConfig
from deployments.core.lane import Lane
from deployments.router import fleet
from deployments.router.fleet import Fleet, combined, model_status
from deployments.wire.status import ModelState, ModelStatus, ReplicaState, ReplicaStatus

FIXED = ModelConfig(name="all-MiniLM-L6-v2", num_gpus=1)
ELASTIC = FIXED.model_copy(update={"replicas": Autoscaling(min_replicas=0, max_replicas=4)})
ROOM, NO_ROOM = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}], []
UPDATE = "an update waits for a GPU"
LOADED = ReplicaStatus(ReplicaState.READY, None, "cuda:0", "bfloat16", 9_000)
LOADING = ReplicaStatus(ReplicaState.LOADING, "loading")
DAMAGED = ReplicaStatus(ReplicaState.UNAVAILABLE, "the file is damaged")


@pytest.mark.parametrize(
    ("replica", "status"),
    [
        (None, ModelStatus(ModelState.READY, 2)),  # too busy to answer; it runs, so calls go there
        (LOADED, ModelStatus(ModelState.READY, 2, UPDATE, LOADED)),
        (LOADING, ModelStatus(ModelState.STARTING, 2, "loading", LOADING)),
        (DAMAGED, ModelStatus(ModelState.UNAVAILABLE, 2, "the file is damaged", DAMAGED)),
    ],
)
@pytest.mark.parametrize("config", [FIXED, ELASTIC])
@pytest.mark.parametrize("nodes", [ROOM, NO_ROOM])
def test_a_running_replica_decides_the_state(config, nodes, replica, status):
    assert model_status(config, 2, UPDATE, replica, nodes) == status


@pytest.mark.parametrize(
    ("config", "message", "nodes", "state", "reason"),
    [
        (FIXED, "", ROOM, ModelState.STARTING, "its first replica is starting"),
        (FIXED, "pulling an image", ROOM, ModelState.STARTING, "pulling an image"),
        (ELASTIC, "", ROOM, ModelState.COLD, "no replica runs; a request starts one"),
        (ELASTIC, "pulling an image", ROOM, ModelState.COLD, "a request starts one"),
        (
            FIXED,
            "pulling",
            NO_ROOM,
            ModelState.UNAVAILABLE,
            "no node of the cluster has CPU and GPU",
        ),
        (ELASTIC, "", NO_ROOM, ModelState.UNAVAILABLE, "no node of the cluster has CPU and GPU"),
    ],
)
def test_without_a_replica_the_nodes_decide_the_state(config, message, nodes, state, reason):
    status = model_status(config, 0, message, None, nodes)
    assert (status.state, status.replicas) == (state, 0)
    assert reason in status.reason
    assert status.refuses == (config is FIXED and nodes is NO_ROOM)


def test_a_ready_replica_stands_for_all_with_the_tokens_of_all():
    busy = replace(LOADED, waiting={Lane.ONLINE: 30, Lane.OFFLINE: 4})
    idle = replace(LOADED, waiting={Lane.ONLINE: 2, Lane.OFFLINE: 0})
    actual = combined([DAMAGED, LOADING, busy, idle], 4)
    assert actual == replace(LOADED, waiting={Lane.ONLINE: 32, Lane.OFFLINE: 4})
    assert combined([DAMAGED, LOADING], 2) == LOADING
    assert combined([], 2) is None


def test_replicas_that_have_not_spoken_count_like_those_that_have():
    busy = replace(LOADED, waiting={Lane.ONLINE: 30, Lane.OFFLINE: 4})
    assert combined([busy], 3).waiting == {Lane.ONLINE: 90, Lane.OFFLINE: 12}


def test_the_speed_is_the_mean_of_all_that_are_known():
    fast, slow = replace(LOADED, tokens_per_s=900), replace(LOADED, tokens_per_s=100)
    assert combined([fast, slow, LOADING], 3).tokens_per_s == 500
    assert combined([LOADING], 1).tokens_per_s is None


async def test_a_message_about_a_start_is_gone_once_the_model_is_ready(monkeypatch):
    said = [LOADING]
    slow = {"deployments": {FIXED.deployment_name: {"message": "more than 30s to initialize"}}}
    monkeypatch.setattr(fleet, "known_replicas", lambda _: ["a replica"])
    monkeypatch.setattr(fleet, "application_details", lambda _: {"app": slow})
    monkeypatch.setattr(fleet.ray, "nodes", lambda: ROOM)

    async def on_ready(_):
        pass

    models = {FIXED.name: (FIXED, SimpleNamespace(status=None))}
    watched = Fleet("app", models, lambda _: said, on_ready)
    await watched._refresh()
    assert watched.status(FIXED.name).state is ModelState.STARTING
    said[0] = LOADED
    await watched._refresh()
    assert watched.status(FIXED.name) == ModelStatus(ModelState.READY, 1, None, LOADED)
