"""OpenAI's client, unchanged, against the batches of a running service."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import openai
import pytest
from openai.types import Batch

from testing.running import API_KEY, RunningService
from tests.support.batches import as_jsonl, ids_of, input_line
from tests.unit.batch_runner.test_lines import BAD

REAL, FLOAT32, HASHED, SPARSE = "all-MiniLM-L6-v2", "tiny-odd", "hashed", "sparse"
# passes of other texts beside them, and bfloat16 on processors that are fast at it
COSINES = {REAL: 0.9995, FLOAT32: 0.99999, HASHED: 0.99999, SPARSE: 0.99999}
FINAL = ("completed", "failed", "expired", "cancelled")


@pytest.fixture
def client(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=API_KEY)


def send(client: openai.OpenAI, lines: Iterable[Any]) -> Batch:
    file = client.files.create(file=("in.jsonl", as_jsonl(lines)), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )


def ended(client: openai.OpenAI, batch_id: str, within_s: float = 60.0) -> Batch:
    deadline = time.monotonic() + within_s
    while (batch := client.batches.retrieve(batch_id)).status not in FINAL:
        assert time.monotonic() < deadline, batch
        time.sleep(0.2)
    return batch


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def results(client: openai.OpenAI, batch: Batch) -> tuple[list[dict[str, Any]], ...]:
    return lines_of(client, batch.output_file_id), lines_of(client, batch.error_file_id)


def requests_of(count: int) -> list[dict[str, Any]]:
    """Returns lines that ask several models for vectors in several forms."""
    forms = [
        {"model": REAL},
        {"model": HASHED, "input_type": "query"},
        {"model": REAL, "encoding_format": "base64"},
        {"model": HASHED, "input": ["one text", "and another"], "dimensions": 384},
        {"model": SPARSE, "encoding_format": "sparse"},
        {"model": FLOAT32, "input_type": "query"},
        {"model": "small-query"},
        {"model": HASHED, "output_dtype": "int8"},
        {"model": REAL, "input": "word " * 2_000, "truncate": True},
    ]
    return [input_line(f"{n}", **forms[n % len(forms)]) for n in range(count)]


def vectors_of(body: dict[str, Any]) -> np.ndarray:
    from base64 import b64decode

    vectors = []
    for item in body["data"]:
        vector = item["embedding"]
        if isinstance(vector, str):
            vector = np.frombuffer(b64decode(vector), "<f4")
        if isinstance(vector, dict):
            dense = np.zeros(31_000)
            dense[vector["indices"]] = vector["values"]
            vector = dense
        vectors.append(np.float64(vector))
    return np.stack(vectors)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return (one * other).sum(axis=1) / norms


def test_mixed_lines_get_the_vectors_of_the_online_route(service, client):
    good, bad = requests_of(320), [line for lines in BAD.values() for line in lines]
    refused = {
        "unknown": (404, "model_not_found", {"model": "nobody"}),
        "over": (400, "context_length_exceeded", {"model": REAL, "input": "word " * 2_000}),
        "away": (503, "model_unavailable", {"model": "e5-small-v2"}),
        "empty": (400, "invalid_value", {"input": ""}),
        "large": (413, "body_too_large", {"input": "x" * 9_000_000}),
    }
    bad = [_own_id(line, f"bad-{n}") for n, line in enumerate(bad)]
    lines = [*good, *bad, *(input_line(i, **fields) for i, (_, _, fields) in refused.items())]
    batch = ended(client, send(client, lines).id)
    assert batch.status == "completed"
    output, errors = results(client, batch)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (len(lines), 320, len(lines) - 320)
    assert ids_of(output) == sorted(line["custom_id"] for line in good)
    assert len(errors) == len(bad) + len(refused)
    of_route = {e["custom_id"]: e["response"] for e in errors if e["response"]}
    assert {i: (r["status_code"], r["body"]["error"]["code"]) for i, r in of_route.items()} == {
        i: (status, code) for i, (status, code, _) in refused.items()
    }
    codes = sorted(e["error"]["code"] for e in errors if e["error"])
    assert codes == sorted(code for code, of_code in BAD.items() for _ in of_code)
    _compare(service, {line["custom_id"]: line["body"] for line in good}, output)


def _own_id(line: Any, custom_id: str) -> Any:
    """Returns a bad line whose id, if it has one, is no other line's."""
    return (
        {**line, "custom_id": custom_id}
        if isinstance(line, dict) and line.get("custom_id") == "a"
        else line
    )


def _compare(service: RunningService, bodies: dict[str, Any], output: list[dict]) -> None:
    with service.client() as http:
        for line in output:
            body = line["response"]["body"]
            online = http.post("/v1/embeddings", json=bodies[line["custom_id"]]).json()
            same = ("model", "space", "usage", "truncated", "instruction", "object")
            assert [body[name] for name in same] == [online[name] for name in same]
            if body["model"] in (HASHED, SPARSE):
                assert body == online
            worst = cosines(vectors_of(body), vectors_of(online)).min()
            assert worst >= COSINES[body["model"]]


def test_a_batch_is_cancelled_in_the_middle(client):
    lines = [input_line(f"{n}", model="slow", input="word " * 50) for n in range(2_000)]
    batch = send(client, lines)
    deadline = time.monotonic() + 60
    while not client.batches.retrieve(batch.id).request_counts.completed:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = ended(client, batch.id)
    output, errors = results(client, batch)
    assert batch.status == "cancelled"
    assert ids_of(output, errors) == sorted(line["custom_id"] for line in lines)
    assert 0 < len(output) < 2_000
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}


def test_lists_and_deletion(client):
    batch = ended(client, send(client, [input_line("a", model=HASHED)]).id)
    assert batch.id in [b.id for b in client.batches.list(limit=1)]  # over all pages
    assert batch.output_file_id in [f.id for f in client.files.list(purpose="batch_output")]
    for file_id in (batch.input_file_id, batch.output_file_id):
        assert client.files.delete(file_id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(file_id)


def test_what_is_wrong_has_openais_errors(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a", b"x"), purpose="assistants")
    assert refused.value.param == "purpose"
    file = client.files.create(file=("a", b"x"), purpose="batch")
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(
            input_file_id=file.id, endpoint="/v1/completions", completion_window="24h"
        )
    assert refused.value.param == "endpoint"
    with pytest.raises(openai.NotFoundError):
        client.batches.create(
            input_file_id="file-0", endpoint="/v1/embeddings", completion_window="24h"
        )


def test_what_a_batch_uses_is_part_of_the_usage(service, client):
    def used() -> dict[str, Any]:
        with service.client() as http:
            report = http.get("/v1/usage").json()
        assert report["complete"]
        return next((m for m in report["data"] if m["model"] == HASHED), {"requests": 0})

    before = used()["requests"]
    batch = send(client, [input_line(i, model=HASHED) for i in "abc"])
    assert ended(client, batch.id).status == "completed"
    assert used()["requests"] == before + 3


def test_the_log_says_where_batches_are_kept(service):
    logs = list((service.log.parent / "ray").rglob("*batches*.log"))
    port = service.url.rpartition(":")[2]
    folder = rf"batches are kept in local /.*/embedfleet-batches-{os.getuid()}-{port}-"
    assert any(re.search(folder, log.read_text()) for log in logs)


@pytest.mark.long
def test_twenty_thousand_lines(service, client):
    lines = [input_line(f"{n}", model=(REAL, HASHED)[n % 2]) for n in range(20_000)]
    flat = [bad for of_code in BAD.values() for bad in of_code]
    bad = [_own_id(flat[n % len(flat)], f"bad-{n}") for n in range(200)]
    mixed = [line for n in range(200) for line in (*lines[n * 100 : (n + 1) * 100], bad[n])]
    started = time.monotonic()
    batch = ended(client, send(client, mixed).id, 200)
    print(f"{len(mixed) / (time.monotonic() - started):.0f} lines/s")
    assert batch.status == "completed"
    output, errors = results(client, batch)
    assert ids_of(output) == sorted(line["custom_id"] for line in lines)
    assert sorted(e["error"]["line"] for e in errors) == [101 * (n + 1) for n in range(200)]
    sample = output[:: len(output) // 100]
    _compare(service, {line["custom_id"]: line["body"] for line in lines}, sample)
