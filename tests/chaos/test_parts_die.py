"""Parts of a service that die or hang: what callers see, and how soon the service is whole again."""

from __future__ import annotations

import csv
import os
import re
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from testing.hashing import save_model
from testing.processes import descendants, kill, marked
from testing.waiting import until
from tests.support.admin_socket import ask
from tests.support.reporting import report

MODEL = "hashed"
APP = {"import_path": "testing.hashing:build"}
BODY = {"model": MODEL, "input": "a text"}
CALLERS = 4
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
        self.outcomes = []  # status or error, seconds, when it ended
        self._begun = {}  # by thread: when its call began
        self._service = service
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

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
            self._begun[threading.get_ident()] = started = time.monotonic()
            try:
                with self._service.client(timeout_s=100.0) as http:
                    outcome = http.post("/v1/embeddings", json=BODY).status_code
            except httpx.TransportError as error:
                outcome = repr(error)
            self.outcomes.append((outcome, time.monotonic() - started, time.monotonic()))
            time.sleep(0.05)

    @property
    def seen(self):
        return {outcome for outcome, *_ in self.outcomes}

    def last_failure(self):
        """Returns when the last call without an answer ended; 0 if all were answered."""
        return max((ended for outcome, _, ended in self.outcomes if outcome != 200), default=0.0)

    def some_has_waited(self, seconds):
        """Returns whether a call has taken that long, and no other is taking that long now."""
        begun = time.monotonic() - seconds
        slow = any(duration > seconds for _, duration, _ in self.outcomes)
        return slow and all(started > begun for started in self._begun.values())

    def answered_since(self, moment):
        return sum(outcome == 200 and ended > moment for outcome, _, ended in self.outcomes)


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


def two_routers(service):
    """Returns the two routers once HAProxy sends requests to both."""

    def both():
        pids = marked(service.process.pid, ROUTER)
        return pids if len(pids) == 2 == servers_up(service) else None

    return until(both, 60, "two routers")


def servers_up(service):
    """Returns how many servers of the application pass HAProxy's health checks."""
    (config,) = {
        line.split(" -f ")[1].split()[0]
        for line in descendants(service.process.pid).values()
        if HAPROXY in line
    }
    path = Path(re.search(r"stats socket (\S+)", Path(config).read_text())[1])
    table = ask(path, "show stat")
    rows = csv.DictReader(table.removeprefix("# ").splitlines())
    return sum(row["status"] == "UP" and row["svname"].startswith("SERVE_REPLICA") for row in rows)


def test_callers_of_a_router_that_is_killed_are_answered_by_the_other(service, record_property):
    victim, _ = two_routers(service)
    with Callers(service) as callers:
        killed = time.monotonic()
        kill([victim])
        until(lambda: callers.answered_since(killed) > 100, 60)
    slowest = max(seconds for _, seconds, _ in callers.outcomes)
    report(record_property, "one of two routers killed, the slowest answer", slowest)
    broken = callers.seen - {
        200,
        503,
    }  # HAProxy had passed on the head of an answer, but not its body
    assert all("without sending complete message body" in error for error in broken)
    assert len([seen for seen, *_ in callers.outcomes if seen in broken]) <= CALLERS


@pytest.mark.long
def test_callers_of_a_router_that_hangs_are_answered_by_the_other(service, record_property):
    victim, _ = two_routers(service)
    with Callers(service) as callers:
        os.kill(victim, signal.SIGSTOP)
        try:
            until(
                lambda: callers.some_has_waited(2), 60, "calls of the stopped router are answered"
            )
            resumed = time.monotonic()
            until(lambda: callers.answered_since(resumed) > 20, 60, "the other one answers")
        finally:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
    slowest = max(seconds for _, seconds, _ in callers.outcomes)
    report(record_property, "one of two routers stopped, the slowest answer", slowest)
    assert callers.seen <= {200, 503}
    assert slowest < 40


def test_it_is_ready_while_the_controller_restarts(service, record_property):
    victims = marked(service.process.pid, CONTROLLER)
    with Callers(service) as callers, service.client() as http:
        kill(victims)
        until(lambda: set(marked(service.process.pid, CONTROLLER)) - set(victims), 60)
        for _ in range(20):
            assert http.get("/ready").status_code == 200
            time.sleep(0.1)
    slowest = max(seconds for _, seconds, _ in callers.outcomes)
    report(record_property, "controller killed, the slowest answer", slowest)
    assert callers.seen == {200}
