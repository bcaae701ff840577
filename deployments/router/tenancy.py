"""What a router does about tenants beside requests: every second, in the background."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deployments.api.auth import ApiKeys
from deployments.core.tenants.limits import TenantLimits
from deployments.metrics import TenantMetrics
from deployments.router.background import every_second
from deployments.router.keys_watch import KeysWatch
from deployments.router.peers import Peers


class Tenancy:
    """Keeps the tenants of the config's keys file up to date, and their limits common to all routers.

    What they use becomes metrics here, since Ray's counters cost more than a request should.
    """

    def __init__(self, keys_file: str | None, models: Collection[str], peers: Peers) -> None:
        self.limits = TenantLimits(time.time())
        self._keys_file = keys_file
        self._models = models
        self._peers = peers
        self._metrics = TenantMetrics()
        self._thread = ThreadPoolExecutor(1, "peers")  # the store may not answer for a minute
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, keys: ApiKeys) -> None:
        """Reads the keys file, if there is one, and watches it. Call it in the event loop.

        Raises what `read_tenants` raises.
        """
        self.report()
        if self._keys_file is None:
            return
        watch = KeysWatch(Path(self._keys_file), self._models, keys.use)
        self._begin("the keys file", lambda: asyncio.to_thread(watch.look))
        self._begin("the limits of tenants", self._exchange)

    def report(self) -> None:
        """Makes metrics of what tenants use. Call it in the event loop."""
        self._begin("the usage of tenants", self._report)

    def _begin(self, what: str, step: Callable[[], Awaitable[None]]) -> None:
        loop, empty = asyncio.get_running_loop(), contextvars.Context()
        self._tasks.append(loop.create_task(every_second(what, step), context=empty))

    async def _report(self) -> None:
        for (tenant, model), counts in self.limits.usage.take_news().items():
            self._metrics.used(tenant, model, counts)

    async def _exchange(self) -> None:
        loop, taken = asyncio.get_running_loop(), self.limits.taken()
        others = await loop.run_in_executor(
            self._thread, self._peers.exchange, taken, time.monotonic()
        )
        self.limits.exchange(others, time.monotonic())
