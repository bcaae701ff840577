"""``serve run`` that answers what is under way before it stops; `embedfleet serve` runs it.

Ray's own shutdown ends the proxies first, and with them every open connection.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from types import FrameType

import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from ray.serve.scripts import cli

_FIND_ROUTERS_S = 5.0
_DRAIN_S = 600.0  # a router keeps to its requests' own deadlines


def main() -> None:
    """Runs until SIGINT; the arguments are those of ``serve run``."""
    signal.signal(signal.SIGINT, _drain)
    cli(["run", *sys.argv[1:]])


def _drain(number: int, frame: FrameType | None) -> None:
    """Lets the routers finish first: they need their replicas, and their callers the proxies."""
    del frame
    signal.signal(number, signal.SIG_IGN)
    if ray.is_initialized():
        with suppress(Exception):  # whatever fails, it stops
            asyncio.run(_drain_routers(list(serve.status().applications)))
    raise KeyboardInterrupt


async def _drain_routers(apps: list[str]) -> None:
    handles = [serve.get_app_handle(app) for app in apps]
    await asyncio.gather(*map(_drain_routers_of, handles), return_exceptions=True)


async def _drain_routers_of(app: DeploymentHandle) -> None:
    async with asyncio.timeout(_FIND_ROUTERS_S):
        await app.models.remote()  # a new handle knows no replicas until it has been used
    await app.broadcast("drain").results_async(timeout_s=_DRAIN_S)


if __name__ == "__main__":
    main()
