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

from testing.running import API_KEY


@dataclass(frozen=True)
class Outcome:
    """One request: when it was due (seconds from the start), its latency, status, Retry-After.

    ``tries`` counts how often it was sent, ``first_status`` is the status of the first time.
    """

    due_s: float
    latency_s: float
    status: int
    retry_after_s: float | None = None
    tries: int = 1
    first_status: int = 200


@dataclass(frozen=True)
class Load:
    """Requests that arrive at random (Poisson) at ``rate`` a second; each waits ``timeout_s``.

    Where the load changes, ``rate`` is its peak, and ``course`` the rate of each second. A broken
    connection or a 5xx is sent again up to ``retries`` times.
    """

    url: str
    bodies: Sequence[dict[str, Any]]
    rate: float
    seconds: float
    timeout_s: float = 70.0
    seed: int = 0
    course: Sequence[float] = ()
    retries: int = 0

    def due(self) -> Iterator[float]:
        """Yields when requests are due, in seconds from the start."""
        dice, at = random.Random(self.seed), 0.0
        while (at := at + dice.expovariate(self.rate)) < self.seconds:
            if not self.course or dice.random() * self.rate < self.course[int(at)]:
                yield at


@dataclass(frozen=True)
class Loaded:
    """What came of a load that ``began`` then (UNIX time), and the processor time that it took."""

    outcomes: list[Outcome]
    cpu_s: float
    began: float = 0.0

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
    began, outcomes = asyncio.run(_arrivals(load))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Loaded(outcomes, usage.ru_utime + usage.ru_stime, began)


async def _arrivals(load: Load) -> tuple[float, list[Outcome]]:
    timeout = aiohttp.ClientTimeout(total=load.timeout_s)
    headers = {"authorization": f"Bearer {API_KEY}", "content-type": "application/json"}
    payloads = [json.dumps(body).encode() for body in load.bodies]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, connector=connector) as http:
        began, started, tasks = time.time(), time.perf_counter(), list[asyncio.Task[Outcome]]()
        for due in load.due():
            await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
            payload = payloads[len(tasks) % len(payloads)]
            tasks.append(asyncio.create_task(_one(http, load, payload, started, due)))
        return began, list(await asyncio.gather(*tasks))


async def _one(
    http: aiohttp.ClientSession, load: Load, payload: bytes, started: float, due: float
) -> Outcome:
    statuses: list[int] = []
    while True:
        status, retry_after = await _send(http, load.url, payload)
        statuses.append(status)
        if 0 < status < 500 or len(statuses) > load.retries:
            break
        await asyncio.sleep(0.5)
    latency = time.perf_counter() - started - due
    wait = float(retry_after) / 1000 if retry_after else None
    return Outcome(due, latency, status, wait, len(statuses), statuses[0])


async def _send(http: aiohttp.ClientSession, url: str, payload: bytes) -> tuple[int, str | None]:
    """Returns the status, 0 for a broken connection, and Retry-After in milliseconds."""
    try:
        async with http.post(url, data=payload) as answer:
            await answer.read()
            return answer.status, answer.headers.get("retry-after-ms")
    except (aiohttp.ClientError, TimeoutError):
        return 0, None
