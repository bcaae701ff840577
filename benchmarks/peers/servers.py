"""The servers that are compared over HTTP, each started as its users start it."""

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

from benchmarks.common.service import MODEL, QUERY, service
from benchmarks.peers import Missing
from testing.processes import descendants
from testing.running import API_KEY, free_port

DIMENSION = 384
_INFINITY = Path(__file__).with_name("infinity.sh")
_START_S, _SET_UP_S = 180.0, 1_800.0
_TICKS = os.sysconf("SC_CLK_TCK")
# processes that a request passes through; the others that Ray starts are there without requests too
_REQUEST_PATH = ("haproxy", "ServeReplica", "ProxyActor")


@dataclass(frozen=True)
class Server:
    """A running server: its URL for embeddings, its name of the model, its first process.

    ``pid`` is None if its processes cannot be watched.
    """

    url: str
    model: str
    pid: int | None

    def body(self, texts: Sequence[str]) -> dict[str, object]:
        """Returns an OpenAI request; the vectors come back as JSON numbers."""
        return {"model": self.model, "input": texts[0] if len(texts) == 1 else list(texts)}

    def answers(self) -> bool:
        """Whether a text comes back as a vector of the model's dimension."""
        headers = {"authorization": f"Bearer {API_KEY}"}
        try:
            response = httpx.post(self.url, json=self.body([QUERY]), headers=headers, timeout=60)
        except httpx.HTTPError:
            return False
        if response.status_code != httpx.codes.OK:
            return False
        return len(response.json()["data"][0]["embedding"]) == DIMENSION

    def settle(self) -> None:
        """Waits until the requests that a load generator left behind are done."""
        for _ in range(3):
            self.answers()
        time.sleep(0.5)


@contextmanager
def embedfleet(threads: int | str = "auto") -> Iterator[Server]:
    """Our service, as `embedfleet serve` starts it."""
    with service(threads=threads) as running:
        yield Server(f"{running.url}/v1/embeddings", MODEL, running.process.pid)


@contextmanager
def plain_app() -> Iterator[Server]:
    """FastAPI and sentence-transformers, in one process of uvicorn."""
    port = free_port()
    app = "benchmarks.peers.plain_app:app"
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning"]
    with _started(command, {}, _START_S, port, MODEL) as server:
        yield server


@contextmanager
def infinity(folder: Path, engine: str, dtype: str) -> Iterator[Server]:
    """Infinity, set up in ``folder`` on first use. Raises Missing if that fails."""
    is_set_up = (folder / ".ready").exists()
    if not is_set_up:
        print(f"setting up Infinity in {folder}: this takes minutes", flush=True)
    port = free_port()
    command = ["bash", str(_INFINITY), str(folder), str(port), engine, dtype]
    host = {"INFINITY_HOST": "127.0.0.1"}
    with _started(command, host, _START_S if is_set_up else _SET_UP_S, port, "m") as server:
        yield server


@contextmanager
def running_infinity(url: str) -> Iterator[Server]:
    """An Infinity that runs already. Raises Missing if it does not answer."""
    server = Server(f"{url.rstrip('/')}/embeddings", "m", None)
    if not server.answers():
        raise Missing(f"{server.url} returns no vector of {DIMENSION} numbers for model m")
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
            _stop(process)


def _wait(server: Server, process: subprocess.Popen[bytes], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not server.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            output = " ".join(log.read_text(errors="replace").split())
            raise Missing(f"it did not start: …{output[-300:]}")
        time.sleep(0.5)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class ProcessorTime:
    """Seconds of processor time by process; which processes are Ray's own (None: there is no Ray)."""

    seconds: Mapping[int, float]
    of_ray: frozenset[int] | None

    @classmethod
    def below(cls, root: int | None) -> ProcessorTime:
        """Reads the times of ``root`` and all processes below it; of none if ``root`` is None."""
        lines = descendants(root) if root else {}
        idle = {pid for pid, line in lines.items() if not any(w in line for w in _REQUEST_PATH)}
        has_ray = any("raylet" in line for line in lines.values())
        return cls({p: _processor_seconds(p) for p in lines}, frozenset(idle) if has_ray else None)

    def since(self, before: ProcessorTime) -> tuple[float | None, float | None]:
        """Returns the seconds spent since ``before``, in all and by Ray; None if not known."""
        spent = {pid: s - before.seconds.get(pid, 0.0) for pid, s in self.seconds.items()}
        ray = self.of_ray
        by_ray = None if ray is None else sum(s for pid, s in spent.items() if pid in ray)
        return sum(spent.values()) if spent else None, by_ray


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS
