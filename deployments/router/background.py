"""What a router does every second, beside requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("ray.serve")
_EVERY_S = 1.0


async def every_second(what: str, step: Callable[[], Awaitable[None]]) -> None:
    """Repeats a step; a failure is logged once, until the step succeeds again."""
    has_failed = False
    while True:
        try:
            await step()
            has_failed = False
        except Exception:
            if not has_failed:
                log.exception("%s could not be updated; trying again", what)
            has_failed = True
        await asyncio.sleep(_EVERY_S)
