"""Replicas that die, stop or go away under load, as callers see it: every request is answered."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from deployments.ray_private import KeyValueStore
from deployments.wire import registry
from testing.hashing import save_model
from testing.processes import kill, marked, replicas
from testing.shared_service import join, redeploy
from testing.waiting import until
from tests.support.reporting import report

MODEL = "steady"
STORE = KeyValueStore("embedfleet")
CALLERS = 32
BODY = {"model": MODEL, "input": "the same text again", "encoding_format": "base64"}
PATIENCE_S = 90.0


@pytest.fixture(scope="module")
def service(shared_service, tmp_path_factory):
    """Two replicas that take their time, so that calls are under way at any moment."""
    folder = save_model(tmp_path_factory.mktemp("models") / MODEL, tokens_per_s=2_000)
    models = [{"name": MODEL, "path": str(folder), "replicas": 2}]
    return shared_service.serve(models, [MODEL], {"import_path": "testing.hashing:build"})


class Load:
    """What callers that send requests without pause have got: (when it ended, seconds, status)."""

    def __init__(self):
        self.answers, self.stop = [], threading.Event()
        self._begun = {}  # by thread: when its call began

    def call(self, service):
        with service.client(timeout_s=PATIENCE_S) as http:
            while not self.stop.is_set():
                self._begun[threading.get_ident()] = started = time.monotonic()
                status = http.post("/v1/embeddings", json=BODY).status_code
                ended = time.monotonic()
                self.answers.append((ended, ended - started, status))

    def slowest(self):
        return max(seconds for _, seconds, _ in self.answers)

    def all_began_after(self, at):
        """Returns whether every call of before has ended."""
        return min(self._begun.values()) > at

    def count_since(self, at):
        return sum(ended > at for ended, *_ in self.answers)


@contextmanager
def load(service):
    """Runs 32 callers, and asserts at the end that each request was answered."""
    load = Load()
    threads = [threading.Thread(target=load.call, args=(service,)) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(load.answers) > CALLERS, PATIENCE_S)
        yield load
        at = time.monotonic()
        until(lambda: load.count_since(at) > CALLERS, PATIENCE_S)
    finally:
        load.stop.set()
        for thread in threads:
            thread.join()
    assert [answer for answer in load.answers if answer[2] != 200] == []


def two(service):
    """Returns the two replicas once both run and Serve counts them."""

    def both():
        with service.client() as http:
            (model,) = http.get("/v1/models").json()["data"]
        pids = replicas(service, "encoder-")
        return pids if model["replicas"] == len(pids) == 2 else None

    return until(both, PATIENCE_S, "two replicas")


def test_routers_have_a_connection_to_each_replica(service):
    """Without one, all requests would still be answered, by handle."""
    two(service)
    join(service)
    ports = {registry.find(key.removeprefix("line/")).port for key in STORE.keys("line/")}
    until(lambda: len(ports & established()) >= 2, 20, f"connections to two of {ports}")


def established():
    """Returns the remote ports of this machine's TCP connections."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {int(row[2].partition(":")[2], 16) for row in rows if row[3] == "01"}


def test_a_replica_that_is_killed_loses_no_request(service, record_property):
    victim, _ = two(service)
    with load(service) as running:
        kill([victim])
    report(record_property, "one of two replicas killed, the slowest answer", running.slowest())


@pytest.mark.long
def test_a_replica_that_is_stopped_is_left_within_seconds(service, record_property):
    victim, _ = two(service)
    with load(service) as running:
        os.kill(victim, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            until(lambda: running.all_began_after(stopped), 30, "the other replica answers them")
            until(lambda: running.count_since(stopped + 4) > CALLERS, 30)
            report(record_property, "a replica stopped, the slowest answer", running.slowest())
        finally:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)


@pytest.mark.long
def test_the_controller_that_is_killed_is_not_missed(service):
    two(service)
    with load(service):
        kill(marked(service.process.pid, "ServeController"))
        time.sleep(3)


@pytest.mark.long
def test_a_router_that_is_killed_leaves_no_work_behind(service):
    """Its replicas drop the calls that nobody waits for, and the next router finds them."""
    two(service)
    slow = {**BODY, "input": ["some words that take a while " * 20] * 32, "truncate": True}
    with ThreadPoolExecutor(8) as pool, suppress(httpx.HTTPError):
        calls = [pool.submit(post, service, slow) for _ in range(8)]  # 25 s of both replicas
        time.sleep(2)
        kill(replicas(service, "router"))
        for call in calls:
            call.exception()
    until(lambda: answers_within(service, 3), PATIENCE_S, "a router answers, and no call waits")


def post(service, body):
    with service.client(timeout_s=PATIENCE_S) as http:
        return http.post("/v1/embeddings", json=body).status_code


def answers_within(service, seconds):
    started = time.monotonic()
    with suppress(httpx.HTTPError):
        return post(service, BODY) == 200 and time.monotonic() - started < seconds
    return False


def test_replicas_that_go_away_answer_what_they_have(service):
    two(service)
    with load(service):
        one = {"name": f"encoder-{MODEL}", "num_replicas": 1}
        redeploy(service, lambda app: app.update(deployments=[one]))
        until(lambda: len(replicas(service, "encoder-")) == 1, PATIENCE_S)
