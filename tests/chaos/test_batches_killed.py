"""A batch during which parts of the service are killed: one result for each line, and no torn file.

EMBEDFLEET_KILL_ROUNDS=20 EMBEDFLEET_KILL_SEED=7 pytest -m long tests/chaos/test_batches_killed.py -s
"""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from testing.hashing import save_model
from testing.processes import descendants, kill, marked, replicas
from testing.running import RunningService, running_service
from tests.support.batches import as_jsonl, ids_of, input_line

MODEL = "steady"
TOKENS_PER_S = 300
LINES = 10_000
ROUNDS = int(os.environ.get("EMBEDFLEET_KILL_ROUNDS", "12"))
SEED = int(os.environ.get("EMBEDFLEET_KILL_SEED", str(random.randrange(1_000_000))))
VICTIMS = ("encoder replica", "router", "runner", "controller", "cluster")
APP = {"import_path": "testing.hashing:build"}
FINAL = ("completed", "failed", "expired", "cancelled")


class Fleet:
    """A service that can be killed and started again, over one store."""

    def __init__(self, model: Path, store: Path) -> None:
        self._stack = ExitStack()
        self._models = [{"name": MODEL, "path": str(model), "replicas": 2}]
        self._store = store
        self.start()

    def start(self) -> None:
        """Starts it."""
        self.service: RunningService = self._stack.enter_context(
            running_service(
                self._models,
                [MODEL],
                app=APP,
                routers=2,
                batches={"store": str(self._store)},
            )
        )

    def strike(self, victim: str, draw: random.Random) -> None:
        """Kills one process of a kind, or all of them; then the service is started again."""
        root = self.service.process.pid
        if victim == "cluster":
            kill(descendants(root))
            self.stop()
            self.start()
            return
        processes = {
            "encoder replica": lambda: replicas(self.service, "encoder-"),
            "router": lambda: replicas(self.service, "router"),
            "runner": lambda: replicas(self.service, "batches"),
            "controller": lambda: marked(root, "ray::ServeController"),
        }[victim]()
        if processes:  # the last one may not have been replaced yet
            kill([draw.choice(processes)])

    def stop(self) -> None:
        """Stops it."""
        self._stack.close()


def call(fleet: Fleet, method: str, path: str, **fields: Any) -> httpx.Response:
    """Calls until there is an answer: what takes requests is killed as well."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with fleet.service.client(10) as http:
                answer = http.request(method, path, **fields)
            if answer.status_code < 500:
                return answer
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, path
        time.sleep(0.5)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_every_line_has_one_result_whatever_is_killed(tmp_path):
    print(f"EMBEDFLEET_KILL_SEED={SEED}")
    draw = random.Random(SEED)
    ids = [f"{n:05}" for n in range(LINES)]
    bad = [b"nonsense", input_line("over", input="word " * 9_999, model=MODEL)]
    fleet = Fleet(
        save_model(tmp_path / "models" / MODEL, tokens_per_s=TOKENS_PER_S), tmp_path / "store"
    )
    try:
        content = as_jsonl([*(input_line(i, model=MODEL) for i in ids), *bad])
        file = call(
            fleet, "POST", "/v1/files", data={"purpose": "batch"}, files={"file": content}
        ).json()
        body = {
            "input_file_id": file["id"],
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
        }
        path = f"/v1/batches/{call(fleet, 'POST', '/v1/batches', json=body).json()['id']}"
        done = 0
        for number in range(ROUNDS):
            batch = further(fleet, path, done)  # kills without progress in between prove little
            time.sleep(draw.uniform(0, 3))
            done = batch["request_counts"]["completed"]
            victim = VICTIMS[number % len(VICTIMS)]
            print(victim, "is killed after", done, "lines", flush=True)
            fleet.strike(victim, draw)
        deadline = time.monotonic() + 600
        while (batch := call(fleet, "GET", path).json())["status"] not in FINAL:
            assert time.monotonic() < deadline, batch
            time.sleep(1)
        assert batch["status"] == "completed"
        output, errors = (lines_of(fleet, batch[f"{name}_file_id"]) for name in ("output", "error"))
        assert ids_of(output) == ids
        assert len(errors) == 2
        assert batch["request_counts"] == {"total": LINES + 2, "completed": LINES, "failed": 2}
    finally:
        fleet.stop()


def further(fleet: Fleet, path: str, lines: int) -> dict[str, Any]:
    """Waits until more lines of the batch have an answer, and some have none. Returns the batch."""
    deadline = time.monotonic() + 120
    while (batch := call(fleet, "GET", path).json())["request_counts"]["completed"] <= lines:
        assert batch["status"] not in FINAL, batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.2)
    assert batch["status"] == "in_progress", batch
    result: dict[str, Any] = batch
    return result


def lines_of(fleet: Fleet, file_id: str) -> list[dict[str, Any]]:
    content = call(fleet, "GET", f"/v1/files/{file_id}/content").content
    return [json.loads(line) for line in content.splitlines()]
