"""The servers that ours is measured beside, each started as its users start it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.engines import Missing
from benchmarks.harness import MODEL, QUERY, service
from testing.running import API_KEY, free_port

DIMENSION = 384
_INFINITY = Path(__file__).with_name("infinity.sh")
_START_S, _SET_UP_S = 180.0, 1_800.0


@dataclass(frozen=True)
class Server:
    """A running server: where it takes embeddings, what it calls the model, its first process.

    ``pid`` is None where the processes are not ours to watch.
    """

    url: str
    model: str
    pid: int | None

    def body(self, texts: Sequence[str]) -> dict[str, object]:
        """Returns a request of OpenAI's shape; vectors come back as JSON numbers."""
        return {"model": self.model, "input": texts[0] if len(texts) == 1 else list(texts)}

    def answers(self) -> bool:
        """Whether a text comes back as a vector of the model's dimension."""
        headers = {"authorization": f"Bearer {API_KEY}"}
        try:
            answer = httpx.post(self.url, json=self.body([QUERY]), headers=headers, timeout=60)
        except httpx.HTTPError:
            return False
        found = answer.status_code == httpx.codes.OK and answer.json()["data"][0]["embedding"]
        return bool(found) and len(found) == DIMENSION

    def settle(self) -> None:
        """Waits until requests that the generator has left behind are done with."""
        for _ in range(3):
            self.answers()
        time.sleep(0.5)


@contextmanager
def embedfleet(threads: int | str = "auto") -> Iterator[Server]:
    """Ours, as `embedfleet serve` starts it: the replica has as many threads as cores."""
    with service(threads=threads) as running:
        yield Server(f"{running.url}/v1/embeddings", MODEL, running.process.pid)


@contextmanager
def plain_app() -> Iterator[Server]:
    """FastAPI and sentence-transformers, in one process of uvicorn."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.plain_app:app", "--port", str(port)]
    with _started([*command, "--log-level", "warning"], {}, _START_S, port, MODEL) as server:
        yield server


@contextmanager
def infinity(folder: Path, engine: str, dtype: str) -> Iterator[Server]:
    """Infinity, which is set up in ``folder`` once. Raises Missing where it cannot be."""
    ready = (folder / ".ready").exists()
    if not ready:
        print(f"Infinity is set up in {folder}: this takes minutes", flush=True)
    port = free_port()
    command = ["bash", str(_INFINITY), str(folder), str(port), engine, dtype]
    host = {"INFINITY_HOST": "127.0.0.1"}
    with _started(command, host, _START_S if ready else _SET_UP_S, port, "m") as server:
        yield server


@contextmanager
def elsewhere(url: str) -> Iterator[Server]:
    """An Infinity that somebody has started. Raises Missing when it does not answer."""
    server = Server(f"{url.rstrip('/')}/embeddings", "m", None)
    if not server.answers():
        raise Missing(f"{server.url} gives no vector of {DIMENSION} numbers for model m")
    yield server


@contextmanager
def _started(
    command: Sequence[str], environment: Mapping[str, str], seconds: float, port: int, model: str
) -> Iterator[Server]:
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=subprocess.STDOUT
        )
        server = Server(f"http://127.0.0.1:{port}/embeddings", model, process.pid)
        try:
            _wait(server, process, seconds, Path(log.name))
            yield server
        finally:
            _end(process)


def _wait(server: Server, process: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not server.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            words = " ".join(log.read_text(errors="replace").split())
            raise Missing(f"it did not start: …{words[-300:]}")
        time.sleep(0.5)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
