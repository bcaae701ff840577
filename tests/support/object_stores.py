"""Object stores on this machine: a server for S3, and one for Google Cloud Storage."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import httpx
import pytest

from testing.running import free_port
from testing.waiting import until


@contextmanager
def s3_server() -> Iterator[str]:
    """Yields the address of an S3 server with a bucket ``corpus``."""
    pytest.importorskip("moto")
    with store_server("moto.server", "-H", "127.0.0.1", "-p") as address:
        httpx.put(f"http://{address}/corpus").raise_for_status()
        yield address


@contextmanager
def store_server(module: str, *options: str) -> Iterator[str]:
    """Runs a server, its port the last option; yields its address once it answers."""
    port = free_port()
    address, line = f"127.0.0.1:{port}", [sys.executable, "-m", module, *options, str(port)]
    with ExitStack() as stack:
        server = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        until(lambda: answers(f"http://{address}/"), 60, f"{module} answers")
        yield address


def answers(url: str) -> bool:
    """Whether a server runs there."""
    with suppress(httpx.TransportError):
        httpx.get(url)
        return True
    return False
