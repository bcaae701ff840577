"""Config and weights replaced under load: no request fails, and no vector gets another space's name."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from testing.hashing import save_model
from testing.shared_service import redeploy
from testing.waiting import until
from tests.chaos.conftest import STEADY

MODEL = STEADY
TEXT = "the same text again and again"
PATIENCE_S = 100.0


@pytest.fixture(scope="module")
def folders(steady, tmp_path_factory):
    """The folder of the model that is served, and one with other weights."""
    return [steady["path"], save_model(tmp_path_factory.mktemp("models") / "new", seed=1)]


@pytest.fixture(scope="module")
def service(steady_service):
    return steady_service


@dataclass
class Load:
    """Callers that send requests without pause, and their answers."""

    running: object
    fields: dict = field(default_factory=dict)
    answers: list = field(default_factory=list)  # status, space, vector

    def __enter__(self):
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        body = {"model": MODEL, "input": TEXT, **self.fields}
        while not self._stop.is_set():
            with self.running.client() as http:
                self.answers.append(outcome(http.post("/v1/embeddings", json=body)))
            time.sleep(0.05)

    @property
    def statuses(self):
        return {status for status, *_ in self.answers}


def outcome(response):
    if response.status_code != 200:
        return response.status_code, None, response.text
    reply = response.json()
    return 200, reply["space"], np.array(reply["data"][0]["embedding"])


def replica_of(running):
    with running.client() as http:
        return http.get("/v1/models").json()["data"][0]


def update(running, **fields):
    redeploy(running, lambda app: app["args"]["models"][0].update(fields))


def test_config_and_weights_are_replaced_under_load(service, folders):
    with service.client() as http:
        _, old, vector = outcome(http.post("/v1/embeddings", json={"model": MODEL, "input": TEXT}))
    with Load(service) as free, Load(service, {"space": old}) as pinned:
        update(service, token_budget=512, dtype="bfloat16")
        until(lambda: replica_of(service)["dtype"] == "bfloat16", PATIENCE_S)
        assert [answer for answer in (*free.answers, *pinned.answers) if answer[0] != 200] == []
        assert {space for _, space, _ in free.answers} == {old}
        update(service, path=str(folders[1]), dtype="float32")
        until(
            lambda: {s for _, s, _ in free.answers[-50:]} == {free.answers[-1][1]} != {old},
            PATIENCE_S,
        )
        until(lambda: {status for status, *_ in pinned.answers[-50:]} == {409}, PATIENCE_S)
    new = free.answers[-1][1]
    assert [answer for answer in free.answers if answer[0] != 200] == []
    assert {space for _, space, _ in free.answers} == {old, new}
    assert {(status, space) for status, space, _ in pinned.answers} == {(200, old), (409, None)}
    of_new = free.answers[-1][2]
    assert vector @ of_new < 0.9
    for _, space, answered in (*free.answers, *(a for a in pinned.answers if a[0] == 200)):
        assert answered @ (vector if space == old else of_new) > 0.999


@pytest.mark.long
def test_after_an_update_to_missing_weights_the_old_ones_serve(service, folders, tmp_path):
    space = replica_of(service)["space_id"]
    with Load(service) as load:
        update(service, path=str(tmp_path / "absent"))
        until(lambda: "to initialize" in (replica_of(service)["reason"] or ""), PATIENCE_S)
        time.sleep(3)  # the router was replaced, too
        assert replica_of(service)["state"] == "ready"
        update(service, path=str(folders[0]))
        until(lambda: replica_of(service)["space_id"] != space, PATIENCE_S)
    assert [answer for answer in load.answers if answer[0] != 200] == []


@pytest.mark.long
def test_an_update_that_has_no_room_says_so_and_the_old_replica_serves(service):
    update(service, num_cpus=os.cpu_count() - 0.1)  # the machine has them, but not beside the rest
    with Load(service) as load:
        until(lambda: "to be scheduled" in (replica_of(service)["reason"] or ""), PATIENCE_S)
        assert replica_of(service)["state"] == "ready"
    assert load.statuses == {200}
