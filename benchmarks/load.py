"""Load that does not wait for the service: open loop, in a process of its own.

Latency counts from the moment a request was due, not from when it could be sent, so a slow service
cannot hide behind a slow generator (coordinated omission).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.running import API_KEY


@dataclass(frozen=True)
class Outcome:
    """One request: when it was due (seconds from the start), its latency, status, Retry-After."""

    due_s: float
    latency_s: float
    status: int
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Load:
    """Requests that arrive at random (Poisson) at ``rate`` a second; each waits ``timeout_s``.

    Where the load changes, ``rate`` is its peak, and ``course`` the rate of each second.
    """

    url: str
    bodies: Sequence[dict[str, Any]]
    rate: float
    seconds: float
    timeout_s: float = 70.0
    seed: int = 0
    course: Sequence[float] = ()

    def due(self) -> Iterator[float]:
        """Yields when requests are due, in seconds from the start."""
        dice, at = random.Random(self.seed), 0.0
        while (at := at + dice.expovariate(self.rate)) < self.seconds:
            if not self.course or dice.random() * self.rate < self.course[int(at)]:
                yield at


@dataclass(frozen=True)
class Loaded:
    """What came of a load, and the processor time that making it took."""

    outcomes: list[Outcome]
    cpu_s: float

    def latencies(self, status: int = 200) -> list[float]:
        """Returns the latencies, in seconds, of the requests with this status."""
        return [o.latency_s for o in self.outcomes if o.status == status]

    def count(self, status: int) -> int:
        """Returns how many requests got this status (0: no answer)."""
        return len(self.latencies(status))


def start(load: Load) -> Future[Loaded]:
    """Begins a load in a process of its own."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    future = pool.submit(_run, load)
    pool.shutdown(wait=False)
    return future


def run(load: Load) -> Loaded:
    """Makes a load and returns what came of it."""
    return start(load).result()


def _run(load: Load) -> Loaded:
    outcomes = asyncio.run(_arrivals(load))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Loaded(outcomes, usage.ru_utime + usage.ru_stime)


async def _arrivals(load: Load) -> list[Outcome]:
    timeout = aiohttp.ClientTimeout(total=load.timeout_s)
    headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
    payloads = [json.dumps(body).encode() for body in load.bodies]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as http:
        started, tasks = time.perf_counter(), list[asyncio.Task[Outcome]]()
        for due in load.due():
            await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
            payload = payloads[len(tasks) % len(payloads)]
            tasks.append(asyncio.create_task(_one(http, load.url, payload, started, due)))
        return list(await asyncio.gather(*tasks))


async def _one(
    http: aiohttp.ClientSession, url: str, payload: bytes, started: float, due: float
) -> Outcome:
    try:
        async with http.post(url, data=payload) as answer:
            await answer.read()
            status, retry_after = answer.status, answer.headers.get("retry-after-ms")
    except (aiohttp.ClientError, TimeoutError):
        status, retry_after = 0, None
    latency = time.perf_counter() - started - due
    return Outcome(due, latency, status, float(retry_after) / 1000 if retry_after else None)
