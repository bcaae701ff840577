"""What a router does about tenants beside requests: once a second, in the background."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Collection
from pathlib import Path

from deployments.api.auth import ApiKeys
from deployments.router.keys_watch import KeysWatch

log = logging.getLogger("ray.serve")
_EVERY_S = 1.0


class Tenancy:
    """Keeps the tenants of the config's keys file up to date."""

    def __init__(self, keys_file: str | None, models: Collection[str]) -> None:
        self._keys_file = keys_file
        self._models = models
        self._task: asyncio.Task[None] | None = None

    def start(self, keys: ApiKeys) -> None:
        """Reads the keys file, if there is one, and watches it. Call it in the event loop.

        Raises what `read_tenants` raises.
        """
        if self._keys_file is None:
            return
        watch = KeysWatch(Path(self._keys_file), self._models, keys.use)
        self._task = asyncio.get_running_loop().create_task(
            self._run(watch), context=contextvars.Context()
        )

    async def _run(self, watch: KeysWatch) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await asyncio.to_thread(watch.look)
            except Exception:
                log.exception("the tenants could not be updated; trying again")
