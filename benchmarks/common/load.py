"""Load on a service: closed loop (as fast as it answers) and open loop (as fast as requests come).

The closed loop is driven by ``wrk``, a compiled generator: each connection sends its next request
after the answer to the last one. The open loop is a process of its own in which requests arrive at
random. Its latency counts from the moment a request was due, not from when it could be sent, so a
slow service cannot hide behind a slow generator (coordinated omission).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import re
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp

from testing.running import API_KEY

Body = dict[str, Any]
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_RESEND_AFTER_S = 0.5


@dataclass(frozen=True)
class ClosedLoop:
    """What ``wrk`` reports: seconds of latency, successful requests a second, errors, its CPU time.

    Refusals count as errors: they come at once, and would make an overloaded server look fast.
    """

    p50_s: float
    p99_s: float
    rate: float
    errors: int
    cpu_s: float


def closed_loop(
    url: str, body: Body | Sequence[Body] | None, connections: int, seconds: float = 8.0
) -> ClosedLoop:
    """Sends ``body``, or several bodies in turn, on this many connections at once; None sends GETs."""
    if shutil.which("wrk") is None:
        raise SystemExit("this benchmark needs the load generator wrk: apt-get install wrk")
    script = _script(list(body) if isinstance(body, Sequence) else [body]) if body else ""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        return _run_wrk(url, file.name, connections, seconds)


def _script(bodies: Sequence[Body]) -> str:
    """Returns wrk's Lua: all requests are formatted once, then sent in turn."""
    strings = ",\n".join(f"[==[{json.dumps(body)}]==]" for body in bodies)
    return (
        'wrk.method = "POST"\n'
        'wrk.headers["content-type"] = "application/json"\n'
        f'wrk.headers["authorization"] = "Bearer {API_KEY}"\n'
        f"local bodies, requests, turn = {{{strings}}}, {{}}, 0\n"
        "function init(args)\n"
        "  for i, body in ipairs(bodies) do requests[i] = wrk.format(nil, nil, nil, body) end\n"
        "end\n"
        "function request()\n"
        "  turn = turn % #requests + 1\n"
        "  return requests[turn]\n"
        "end\n"
    )


def _run_wrk(url: str, script: str, connections: int, seconds: float) -> ClosedLoop:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "60s"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [*command, "--latency", "-s", script, url], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return parse_wrk(run.stdout, cpu)


def parse_wrk(output: str, cpu_s: float = 0.0) -> ClosedLoop:
    """Reads wrk's report."""
    sent = int(_first(r"(\d+) requests in ", output) or 0)
    refused = int(_first(r"Non-2xx or 3xx responses: (\d+)", output) or 0)
    succeeded = (sent - refused) / sent if sent else 0.0
    rate = float(_first(r"Requests/sec:\s+([\d.]+)", output) or 0) * succeeded
    sockets = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output
    )
    broken = sum(map(int, sockets.groups())) if sockets else 0
    return ClosedLoop(_latency(50, output), _latency(99, output), rate, refused + broken, cpu_s)


def _latency(percent: int, output: str) -> float:
    match = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", output)
    return float(match[1]) * _UNITS[match[2]] if match else float("nan")


def _first(pattern: str, output: str) -> str | None:
    match = re.search(pattern, output)
    return match[1] if match else None


@dataclass(frozen=True)
class Load:
    """An open loop: requests arrive at random (Poisson), ``rate`` a second, for ``seconds``.

    A request is given up after ``timeout_s``. If the rate changes, ``rate`` is its peak and
    ``course`` the rate in each second. A broken connection or a 5xx is sent again up to
    ``retries`` times.
    """

    url: str
    bodies: Sequence[Body]
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
class Outcome:
    """One request: when it was due (seconds from the start), its latency, status (0: no answer).

    ``tries`` counts how often it was sent, ``first_status`` is the status of the first time.
    """

    due_s: float
    latency_s: float
    status: int
    retry_after_s: float | None = None
    tries: int = 1
    first_status: int = 200


@dataclass(frozen=True)
class OpenLoop:
    """The outcomes of a load that ``began`` then (UNIX time), and the generator's processor time."""

    outcomes: list[Outcome]
    cpu_s: float
    began: float = 0.0

    def latencies(self, status: int = 200) -> list[float]:
        """Returns the latencies, in seconds, of the requests with this status."""
        return [o.latency_s for o in self.outcomes if o.status == status]

    def count(self, status: int) -> int:
        """Returns how many requests got this status (0: no answer)."""
        return len(self.latencies(status))


def start_open_loop(load: Load) -> Future[OpenLoop]:
    """Starts a load in a process of its own."""
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    future = pool.submit(_generate, load)
    pool.shutdown(wait=False)
    return future


def open_loop(load: Load) -> OpenLoop:
    """Runs a load to its end."""
    return start_open_loop(load).result()


def _generate(load: Load) -> OpenLoop:
    began, outcomes = asyncio.run(_arrivals(load))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return OpenLoop(outcomes, usage.ru_utime + usage.ru_stime, began)


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
            tasks.append(asyncio.create_task(_request(http, load, payload, started, due)))
        return began, list(await asyncio.gather(*tasks))


async def _request(
    http: aiohttp.ClientSession, load: Load, payload: bytes, started: float, due: float
) -> Outcome:
    statuses: list[int] = []
    while True:
        status, retry_after = await _send(http, load.url, payload)
        statuses.append(status)
        if 0 < status < 500 or len(statuses) > load.retries:
            break
        await asyncio.sleep(_RESEND_AFTER_S)
    latency = time.perf_counter() - started - due
    wait = float(retry_after) / 1000 if retry_after else None
    return Outcome(due, latency, status, wait, len(statuses), statuses[0])


async def _send(http: aiohttp.ClientSession, url: str, payload: bytes) -> tuple[int, str | None]:
    """Returns the status, 0 for a broken connection, and Retry-After in milliseconds."""
    try:
        async with http.post(url, data=payload) as response:
            await response.read()
            return response.status, response.headers.get("retry-after-ms")
    except (aiohttp.ClientError, TimeoutError):
        return 0, None
