"""Load by ``wrk``, a compiled generator: each connection sends its next request after its answer."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from testing.running import API_KEY

Body = dict[str, Any]
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Closed:
    """What ``wrk`` found: seconds of latency, requests a second that were answered with a vector, errors,
    its own processor time.

    A refusal comes at once: counted as an answer it would make an overloaded server look fast.
    """

    p50_s: float
    p99_s: float
    rate: float
    errors: int
    cpu_s: float


def wrk(url: str, body: Body | Sequence[Body], connections: int, seconds: float = 8.0) -> Closed:
    """Sends ``body``, or several in turn, on so many connections at once.

    Needs the program ``wrk`` (Debian: wrk).
    """
    if shutil.which("wrk") is None:
        raise SystemExit("these benchmarks need the load generator wrk: apt-get install wrk")
    script = _script(list(body) if isinstance(body, Sequence) else [body])
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        return _run(url, file.name, connections, seconds)


def _script(bodies: Sequence[Body]) -> str:
    """Returns wrk's Lua: requests are written out once, then sent in turn."""
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


def _run(url: str, script: str, connections: int, seconds: float) -> Closed:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "60s"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        [*command, "--latency", "-s", script, url], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return parse(run.stdout, cpu)


def parse(output: str, cpu_s: float = 0.0) -> Closed:
    """Reads wrk's report."""
    sent = int(_found(r"(\d+) requests in ", output) or 0)
    refused = int(_found(r"Non-2xx or 3xx responses: (\d+)", output) or 0)
    answered = (sent - refused) / sent if sent else 0.0
    rate = float(_found(r"Requests/sec:\s+([\d.]+)", output) or 0) * answered
    sockets = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output
    )
    broken = sum(map(int, sockets.groups())) if sockets else 0
    return Closed(_latency(50, output), _latency(99, output), rate, refused + broken, cpu_s)


def _latency(percent: int, output: str) -> float:
    found = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", output)
    return float(found[1]) * _UNITS[found[2]] if found else float("nan")


def _found(pattern: str, output: str) -> str | None:
    found = re.search(pattern, output)
    return found[1] if found else None
