"""Clients that connect, send and vanish: their texts are not computed, and nothing leaks."""

from __future__ import annotations

import json
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from tests.ray.test_operations import eventually
from tests.running import API_KEY, RunningService

MODEL = "minilm-float32"
VANISHING = 250  # fewer than a router lets in at once


def counted(service: RunningService, name: str) -> float:
    """Returns the sum of a counter of this model."""
    with service.client() as http:
        lines = http.get("/metrics").text.splitlines()
    ours = [line for line in lines if line.startswith(name + "{") and f'"{MODEL}"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in ours)


def settled(service: RunningService, name: str) -> float:
    """Returns a counter once Ray has exported all of it."""
    before, after = -1.0, counted(service, name)
    while before != after:
        time.sleep(4)
        before, after = after, counted(service, name)
    return after


def request_bytes(number: int) -> bytes:
    body = json.dumps({"model": MODEL, "input": f"vanishing client number {number}"}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
        f"authorization: Bearer {API_KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect_send_and_vanish(service: RunningService) -> None:
    """All requests are in the service when their clients close."""
    address = urlsplit(service.url)
    clients = []
    for number in range(VANISHING):
        clients.append(socket.create_connection((address.hostname, address.port), timeout=10))
        clients[-1].sendall(request_bytes(number))
    time.sleep(0.5)
    for client in clients:
        client.close()


def seconds_of_work(service: RunningService, seconds: float) -> list[str]:
    """Returns texts that fill whole passes, so that no other text fits beside them."""
    with service.client() as http:
        (model,) = (m for m in http.get("/v1/models").json()["data"] if m["id"] == MODEL)
    texts = min(2_048, int(seconds * model["tokens_per_s"] / model["max_tokens"]))
    return [f"{number}" + " word" * model["max_tokens"] for number in range(texts)]


def test_texts_of_vanished_clients_are_not_computed(service):
    texts = seconds_of_work(service, 5)
    before = settled(service, "embedfleet_texts_total")
    with ThreadPoolExecutor(1) as pool, service.client(timeout_s=120) as http:
        # keeps the replica busy, so that whoever comes next has to wait
        body = {"model": MODEL, "input": texts, "truncate": True}
        busy = pool.submit(http.post, "/v1/embeddings", json=body)
        time.sleep(0.5)
        connect_send_and_vanish(service)
        assert busy.result().status_code == 200
        started = time.monotonic()
        assert http.post("/v1/embeddings", json={**body, "input": "x"}).status_code == 200
        assert time.monotonic() - started < 5
    computed = settled(service, "embedfleet_texts_total") - before - len(texts) - 1
    dropped = settled(service, "embedfleet_dropped_texts_total")
    assert dropped > 0, "none had reached the replica"
    assert 0 <= computed <= VANISHING * 0.1, f"{computed} of {VANISHING} were computed all the same"


def test_nothing_waits_afterwards(service):
    def empty() -> str:
        with service.client() as http:
            lines = http.get("/metrics").text.splitlines()
        waits = [line for line in lines if re.match(r"embedfleet_queue_(texts|tokens)\{", line)]
        return "empty" if waits and all(float(w.rsplit(" ", 1)[1]) == 0 for w in waits) else ""

    assert eventually(empty, seconds=45)
