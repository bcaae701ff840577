"""Parts of a service that die or hang: what callers see, and how soon the service is whole again."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

import httpx
import pytest

from testing.hashing import save_model
from testing.processes import kill, marked
from testing.waiting import until

MODEL = "hashed"
APP = {"import_path": "testing.hashing:build"}
BODY = {"model": MODEL, "input": "a text"}
HAPROXY, ROUTER, CONTROLLER = "bin/haproxy -db", "embedfleet:router", "ray::ServeController"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("models") / MODEL)
    return [{"name": MODEL, "path": str(folder)}]


@pytest.fixture(scope="module")
def service(shared_service, models):
    running = shared_service.serve(models, [MODEL], APP, routers=2)
    until(lambda: len(marked(running.process.pid, ROUTER)) == 2, 60)
    return running


class Callers:
    """Four clients that call without a pause and keep what they see."""

    def __init__(self, service):
        self.outcomes = []  # status or name of the error, seconds, when it ended
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(4)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self):
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                with self._service.client(timeout_s=100.0) as http:
                    outcome = http.post("/v1/embeddings", json=BODY).status_code
            except httpx.TransportError as error:
                outcome = type(error).__name__
            self.outcomes.append((outcome, time.monotonic() - started, time.monotonic()))
            time.sleep(0.02)

    @property
    def seen(self):
        return {outcome for outcome, *_ in self.outcomes}

    def last_failure(self):
        """Returns when the last call without an answer ended; 0 if all were answered."""
        return max((ended for outcome, _, ended in self.outcomes if outcome != 200), default=0.0)

    def answered_since(self, moment):
        return sum(outcome == 200 and ended > moment for outcome, _, ended in self.outcomes)


def report(record_property, what, seconds):
    """Keeps a figure for the table in docs/operations.md, which `pytest --junitxml` prints."""
    record_property(what, round(seconds, 1))
    print(f"{what}: {seconds:.1f} s")


def test_an_haproxy_that_is_killed_is_replaced_within_seconds(service, record_property):
    root = service.process.pid
    until(lambda: len(marked(root, HAPROXY)) == 1, 60, "older ones have ended")
    with Callers(service) as callers:
        killed = time.monotonic()
        kill(marked(root, HAPROXY))
        until(lambda: callers.last_failure() > killed, 10)
        until(lambda: callers.answered_since(callers.last_failure()) > 40, 60)
    report(record_property, "HAProxy killed", callers.last_failure() - killed)
    # a connection is refused or broken, or the new HAProxy knows no router yet; no 404
    assert {seen for seen in callers.seen if isinstance(seen, int)} <= {200, 503}
    assert callers.last_failure() - killed < 30


def test_callers_of_a_router_that_hangs_are_answered_by_the_other(service, record_property):
    victim, _ = marked(service.process.pid, ROUTER)
    with Callers(service) as callers:
        os.kill(victim, signal.SIGSTOP)
        try:
            stopped = time.monotonic()
            until(lambda: callers.answered_since(stopped + 20) > 20, 60)
        finally:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
    slowest = max(seconds for _, seconds, _ in callers.outcomes)
    report(record_property, "router stopped, the slowest answer", slowest)
    assert callers.seen <= {200, 503}
    assert slowest < 30


def test_it_is_ready_while_the_controller_restarts(service):
    victims = marked(service.process.pid, CONTROLLER)
    kill(victims)
    with service.client() as http:
        until(lambda: set(marked(service.process.pid, CONTROLLER)) - set(victims), 60)
        for _ in range(20):
            assert http.get("/ready").status_code == 200
            assert http.post("/v1/embeddings", json=BODY).status_code == 200
            time.sleep(0.1)
