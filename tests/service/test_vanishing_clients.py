"""Clients that send a request and vanish: their texts are not computed, and nothing leaks."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from testing.running import API_KEY, RunningService
from testing.waiting import until

MODEL = "slow"
VANISHING = 150  # 5 s of the replica's work, which is less than a request may wait for


def counted(service: RunningService) -> tuple[float, float]:
    """Returns how many texts of this model were computed and how many were dropped."""
    names = ("embedfleet_texts_total", "embedfleet_dropped_texts_total")
    computed, dropped = (sum(service.metric(name, MODEL)) for name in names)
    return computed, dropped


def settled(service: RunningService) -> tuple[float, float]:
    """Returns these counters once they no longer change, so that Ray has exported them."""
    counts = [counted(service)]

    def unchanged() -> bool:
        time.sleep(3)
        counts.append(counted(service))
        return counts[-1] == counts[-2]

    until(unchanged, 60, "the counters stop changing")
    return counts[-1]


def request_bytes(number: int) -> bytes:
    text = f"vanishing client number {number}" + " word" * 1_000
    body = json.dumps({"model": MODEL, "input": text, "truncate": True}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {API_KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect_and_send(service: RunningService) -> list[socket.socket]:
    """Returns the connections of clients that have all sent their requests."""
    address = urlsplit(service.url)
    clients = []
    for number in range(VANISHING):
        clients.append(socket.create_connection((address.hostname, address.port), timeout=60))
        clients[-1].sendall(request_bytes(number))
    time.sleep(0.5)
    return clients


@contextmanager
def kept_busy(service: RunningService, texts: list[str]) -> Iterator[None]:
    """Keeps the replica so busy that further requests have to wait.

    Each text is a request of its own: behind a single large one, small requests would not wait.
    """

    def send(text: str) -> int:
        body = {"model": MODEL, "input": text, "truncate": True}
        return http.post("/v1/embeddings", json=body).status_code

    with ThreadPoolExecutor(len(texts)) as pool, service.client(timeout_s=120) as http:
        busy = [pool.submit(send, text) for text in texts]
        time.sleep(1)
        yield
        assert {status.result() for status in busy} == {200}


def seconds_of_work(service: RunningService, seconds: float) -> list[str]:
    """Returns texts that fill whole passes, so that no other text fits into them."""
    with service.client() as http:
        (model,) = (m for m in http.get("/v1/models").json()["data"] if m["id"] == MODEL)
    texts = min(2_048, int(seconds * model["tokens_per_s"] / model["max_tokens"]))
    return [f"{number}" + " word" * model["max_tokens"] for number in range(texts)]


@pytest.mark.long
def test_texts_of_vanished_clients_are_not_computed(service):
    texts = seconds_of_work(service, 3)
    computed, dropped = settled(service)
    with kept_busy(service, texts):
        for client in connect_and_send(service):
            client.close()
    with service.client() as http:
        started = time.monotonic()
        body = {"model": MODEL, "input": "x"}
        assert http.post("/v1/embeddings", json=body).status_code == 200
        assert time.monotonic() - started < 5
    answered = computed + len(texts) + 1
    until(lambda: counted(service)[0] >= answered, 45, "all answered texts are counted")
    computed_after, dropped_after = settled(service)
    assert dropped_after > dropped, "no text had reached the replica"
    assert computed_after - answered <= VANISHING * 0.2, "texts of vanished clients were computed"


def test_clients_that_stay_are_answered_though_others_of_the_same_call_vanish(service):
    with kept_busy(service, seconds_of_work(service, 2)):
        clients = connect_and_send(service)
        for client in clients[::3]:
            client.close()
        for client in clients[1::3] + clients[2::3]:
            assert client.recv(64).startswith(b"HTTP/1.1 200 OK")
            client.close()


def test_nothing_waits_afterwards(service):
    def empty() -> bool:
        texts, tokens = (service.metric(f"embedfleet_queue_{what}") for what in ("texts", "tokens"))
        return bool(texts and tokens) and not any(texts + tokens)

    until(empty, 45, "empty queues")
