"""``serve run`` that answers what is under way before it stops; `embedfleet serve` runs it.

Ray's own shutdown ends the proxies first, and with them every open connection.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

import ray
from ray import serve
from ray.serve.scripts import cli

from deployments.ray_private import serve_client, started_ray

_FIND_ROUTERS_S = 5.0
_LAST_BYTES_S = 0.3  # of answers that routers have given, on their way to the callers
_DRAIN_S = 600.0  # a router keeps to its requests' own deadlines


def main() -> None:
    """Runs until SIGINT; the arguments are those of ``serve run``."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # in the background of a terminal it may write
    signal.signal(signal.SIGINT, _drain)
    cli(["run", *sys.argv[1:]])


def _drain(number: int, frame: FrameType | None) -> None:
    """Lets the routers finish first: they need their replicas, and their callers the proxies."""
    del frame
    signal.signal(number, signal.SIG_IGN)
    if ray.is_initialized():
        try:
            apps = list(serve.status().applications)
            asyncio.run(_drain_routers(apps))
            # the loop that has just ended is an error to Serve's clients in this process
            logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
            if started_ray():  # then nothing else runs on it
                _end_at_once()
            serve_client().delete_apps(apps)  # answers leave while replicas stop in order
        except Exception as error:  # whatever fails, it stops
            print(f"embedfleet: stopping without order: {error!r}", file=sys.stderr)
    raise KeyboardInterrupt


def _end_at_once() -> NoReturn:
    """Ends Ray and all that runs on it.

    Serve's own shutdown takes seconds, in which its proxies answer 404 for a service that has gone.
    """
    time.sleep(_LAST_BYTES_S)
    ray.shutdown()
    sys.exit(0)


async def _drain_routers(apps: list[str]) -> None:
    try:
        found = await asyncio.gather(*map(_drain_routers_of, apps), return_exceptions=True)
    finally:
        # their loop ends here, and Serve's own shutdown would want it
        await serve_client().shutdown_cached_handles_async()
    for app, error in zip(apps, found, strict=True):
        if error is not None:
            print(f"embedfleet: {app} was not told to finish: {error!r}", file=sys.stderr)


async def _drain_routers_of(app: str) -> None:
    handle = serve.get_app_handle(app)
    async with asyncio.timeout(_FIND_ROUTERS_S):
        await handle.models.remote()  # a new handle knows no replicas until it has been used
    # one that has died meanwhile ends no other's wait
    await handle.broadcast("drain").results_async(timeout_s=_DRAIN_S, return_exceptions=True)


if __name__ == "__main__":
    main()
