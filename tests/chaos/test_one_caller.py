"""One caller does not stop the others: the worst bodies, bodies that never arrive, and headers."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
import pytest

from testing.hashing import save_model
from testing.processes import memory_mib, replicas
from testing.running import API_KEY
from tests.support.attacks import attacks

MODEL = "hashed"
ATTACKS = attacks(MODEL)
HEADERS = {"content-type": "application/json"}
# an attack that holds the event loop holds it for many seconds
NOBODY_WAITS_S = 3.0
SLOW_CONNECTIONS = 512
ATTACKED_S = 10.0
# with 20 callers both cores are busy, and an answer takes several turns of the event loop
HEALTH_S = {1: 0.05, 20: 0.6}
PARSED_S = {"escapes": 0.1}  # the JSON parser holds the interpreter for so long


@pytest.fixture(scope="module")
def service(shared_service, tmp_path_factory):
    folder = save_model(tmp_path_factory.mktemp("models") / MODEL)
    app = {"import_path": "testing.hashing:build"}
    return shared_service.serve([{"name": MODEL, "path": str(folder)}], [MODEL], app)


@dataclass
class Times:
    """Seconds that others waited for ``/health`` and for a short text."""

    health: list[float] = field(default_factory=list)
    embed: list[float] = field(default_factory=list)


@contextmanager
def others(service) -> Iterator[Times]:
    """Calls both routes all the time, each from a connection of its own; every answer must be 200."""
    times, over, failures = Times(), threading.Event(), []

    def call(seconds, method, path, **body):
        with service.client(timeout_s=60) as http:
            while not over.is_set():
                started = time.perf_counter()
                answer = http.request(method, path, **body)
                seconds.append(time.perf_counter() - started)
                if answer.status_code != 200:
                    failures.append(answer.text)

    text = {"json": {"model": MODEL, "input": "a short text"}}
    with ThreadPoolExecutor(2) as pool:
        calls = [
            pool.submit(call, times.health, "GET", "/health"),
            pool.submit(call, times.embed, "POST", "/v1/embeddings", **text),
        ]
        try:
            yield times
        finally:
            over.set()
        for done in calls:
            done.result()
    assert failures == []


def send(service, attack) -> httpx.Response:
    with service.client(timeout_s=60) as http:
        return http.post(attack.path, content=attack.body, headers=HEADERS)


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_waits_for_the_worst_bodies(service, name):
    attack = ATTACKS[name]()
    with others(service) as times:
        answers = [send(service, attack) for _ in range(2)]
        time.sleep(0.2)
    assert {answer.status_code for answer in answers} <= set(attack.statuses), answers[0].text[:500]
    assert max(times.health) < NOBODY_WAITS_S
    assert max(times.embed) < NOBODY_WAITS_S


def routers(service) -> list[int]:
    return replicas(service, "router")


def test_the_memory_of_a_router_does_not_follow_the_bodies(service):
    before = {pid: memory_mib(pid) for pid in routers(service)}
    assert before
    for name in ("one long text", "one long text that is cut", "texts that are cut", "punctuation"):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda attack: send(service, attack), [ATTACKS[name]()] * 4))
    grown = {pid: memory_mib(pid) - mib for pid, mib in before.items()}
    assert max(grown.values()) < 300, grown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-request-id", b"caf\xe9"),
        (b"x-request-id", b"a" * 5_000),
        (b"serve_multiplexed_model_id", b"\xff"),
        (b"x-session-id", b"\xff\xfe"),
    ],
)
@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_headers_that_serve_cannot_read_get_an_answer(service, path, name, value):
    with service.client() as http:
        answer = http.get(path, headers=[(name, value)])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_header"
    assert len(answer.content) < 1_000


def test_connections_that_never_send_their_bodies_keep_no_places(service):
    address = urlsplit(service.url)
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {API_KEY}\r\ncontent-length: 1000\r\n\r\n{{"
    )
    with ExitStack() as connections:
        for _ in range(SLOW_CONNECTIONS):
            where = (address.hostname, address.port)
            slow = connections.enter_context(socket.create_connection(where, timeout=60))
            slow.sendall(head.encode())
        time.sleep(0.5)
        with others(service) as times:
            time.sleep(2)
        assert times.embed
        assert max(times.embed) < 10


def percentile(seconds, share):
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


@pytest.fixture(scope="module")
def undisturbed(service):
    """What the others wait while nobody attacks."""
    with others(service) as times:
        time.sleep(10)
    return times


@contextmanager
def attacked(service, name, callers):
    """Sends a body from ``callers`` connections, in a process that takes no core from the service."""
    context = multiprocessing.get_context("spawn")
    attackers = context.Process(target=keep_sending, args=(service.url, ATTACKS[name](), callers))
    attackers.start()
    try:
        time.sleep(3)  # it has started
        yield
        assert attackers.is_alive()
    finally:
        attackers.kill()
        attackers.join()


def keep_sending(url, attack, callers):
    os.nice(19)

    def caller(_):
        headers = {**HEADERS, "authorization": f"Bearer {API_KEY}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60, verify=False) as http:
            while True:
                http.post(attack.path, content=attack.body)

    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(caller, range(callers)))


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("callers", [1, 20])
@pytest.mark.parametrize("name", ATTACKS)
def test_health_and_others_are_fast_beside_the_worst_bodies(service, undisturbed, name, callers):
    with attacked(service, name, callers), others(service) as times:
        time.sleep(ATTACKED_S)
    for route in ("health", "embed"):
        quiet, beside = getattr(undisturbed, route), getattr(times, route)
        print(
            f"{name}, {callers}, {route}:",
            *(
                f"{share:g} {percentile(quiet, share) * 1e3:.0f} -> {percentile(beside, share) * 1e3:.0f}"
                for share in (0.5, 0.99, 0.999)
            ),
            f"max {max(quiet) * 1e3:.0f} -> {max(beside) * 1e3:.0f} ms, {len(beside)} calls",
        )
    assert percentile(times.health, 0.999) < max(HEALTH_S[callers], PARSED_S.get(name, 0))
    assert max(times.embed) < 1
