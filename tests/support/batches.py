"""Batches without a service: the real store and the real runner, over any answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from deployments.batch_runner.runner import BatchRunner
from deployments.batch_runner.work import Answer
from deployments.batches import lease
from deployments.batches.states import BATCH_PREFIX, COMPLETION_S, FILE_PREFIX, Batch, new_id
from deployments.batches.store import Store
from deployments.batches.threads import StoreThreads

URL = "/v1/embeddings"
OWNER = "owner"
LONGEST = 100_000


def input_line(custom_id: Any, **body: Any) -> dict[str, Any]:
    """Returns a line of an input file; the text is the id, unless given."""
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": URL,
        "body": {"input": f"text {custom_id}", **body},
    }


def as_jsonl(lines: Iterable[Any]) -> bytes:
    """Returns lines as a file; bytes stay as they are."""
    rows = (r if isinstance(r, bytes) else json.dumps(r).encode() for r in lines)
    return b"".join(row + b"\n" for row in rows)


def keep(store: Store, content: bytes, owner: str = OWNER) -> str:
    """Returns the id of a new file."""
    now = time.time()
    upload = store.upload(new_id(FILE_PREFIX, now))
    upload.write(content)
    return upload.keep(owner, "in.jsonl", "batch", now, 86_400).id


def send(
    store: Store,
    lines: Iterable[Any],
    seconds: float = COMPLETION_S,
    owner: str = OWNER,
    age_s: float = 0.0,
) -> str:
    """Queues a batch that was created ``age_s`` seconds ago and expires ``seconds`` after that; returns
    its id.
    """
    now = time.time() - age_s
    batch = Batch(
        id=new_id(BATCH_PREFIX, now),
        owner=owner,
        input_file_id=keep(store, as_jsonl(lines), owner),
        endpoint=URL,
        created_at=int(now),
        expires_at=now + seconds,
        output_ttl_s=86_400,
    )
    store.create_batch(batch, 1_000)
    return batch.id


@asynccontextmanager
async def running(
    store: Store | Callable[[], Store], answer: Answer, max_running: int = 2, threads: int = 8
) -> AsyncIterator[BatchRunner]:
    """Runs the batches of a store, or of what opens it, until the end of the block kills the runner."""
    opening = store if callable(store) else lambda: store
    runner = BatchRunner(StoreThreads(opening, threads), answer, max_running, LONGEST, 86_400)
    task = asyncio.create_task(runner.run())
    try:
        yield runner
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def ended(store: Store, batch_id: str, within_s: float = 20.0) -> Batch:
    """Returns a batch of `OWNER` once it is final."""
    async with asyncio.timeout(within_s):
        while not (batch := store.batch(OWNER, batch_id)).is_final or batch_id in store.queue():
            await asyncio.sleep(0.02)
    return batch


def results(store: Store, batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the lines of the output and of the error file."""
    return tuple(  # type: ignore[return-value]
        _lines(store, file_id) for file_id in (batch.output_file_id, batch.error_file_id)
    )


def _lines(store: Store, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    with store.open(store.file(OWNER, file_id)) as file:
        content = file.read()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


def ids_of(*files: Sequence[dict[str, Any]]) -> list[str]:
    """Returns every custom_id of result files, sorted."""
    return sorted(line["custom_id"] for lines in files for line in lines)


def hurry(monkeypatch: Any) -> None:
    """Shortens the pauses of runners."""
    monkeypatch.setattr("deployments.batch_runner.runner._TURN_S", 0.05)
    monkeypatch.setattr("deployments.batch_runner.runner._STORE_FAILED_S", 0.1)
    monkeypatch.setattr("deployments.batch_runner.runner.BEAT_S", 0.05)
    monkeypatch.setattr(lease, "_SETTLE_S", 0.05)
    monkeypatch.setattr(lease, "_STALE_S", 0.5)
