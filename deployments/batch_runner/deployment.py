"""The process that runs batches: one for the whole service, which Serve starts again if it dies.

It is no Ray Data job. The start of one takes some ten seconds and a free CPU, too much for a batch of a
few lines, and its rows go through one model in one way, while each line chooses for itself. This process
tokenizes and writes JSON at a low priority; the replicas do the rest.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.batch_runner.answering import LineAnswers
from deployments.batch_runner.runner import BatchRunner
from deployments.batches.threads import StoreThreads
from deployments.config.schema import AppArgs
from deployments.core.engine.cpu.priority import give_way
from deployments.router.batches import configured_store
from deployments.router.deployment import FleetBackend, api_limits

log = logging.getLogger("ray.serve")
NAME = "batches"
_FOLLOW_S = 5.0
_LONGEST_BODIES = 4  # a line that is this many times over the limit of a body is not read


class Batches(FleetBackend):
    """Runs the batches of the configured store, with a backend like a router's."""

    def __init__(self, args: AppArgs, handles: Mapping[str, DeploymentHandle]) -> None:
        """Serve calls it in its event loop."""
        super().__init__(args, handles)
        assert args.batches is not None
        give_way()  # routers and replicas go first
        limits = api_limits(args)
        runner = BatchRunner(
            StoreThreads(partial(configured_store, args.batches)),
            LineAnswers(self, limits, args.batches.wait_s, used=self._tenancy.limits).answer,
            args.batches.max_running,
            _LONGEST_BODIES * limits.max_body_bytes,
            args.batches.retention_s,
        )
        self.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(runner.run()), loop.create_task(self._follow_routing())]
        self._tenancy.report()

    async def check_health(self) -> None:
        """Raises if the runner has ended, so that Serve starts another one."""
        for task in self._tasks:
            if task.done():
                raise RuntimeError("the runner of batches has ended") from task.exception()

    def __del__(self) -> Coroutine[Any, Any, None] | None:
        """Stops the runner in order. Serve awaits what this returns before the process ends."""
        tasks, self._tasks = getattr(self, "_tasks", []), []
        return _stopped(tasks) if tasks else None

    async def _follow_routing(self) -> None:
        """Chooses models as the routers do, also after their ``user_config`` has changed."""
        handle: DeploymentHandle = DeploymentHandle("router", serve.get_replica_context().app_name)
        while True:
            try:
                async with asyncio.timeout(_FOLLOW_S):
                    routing = await handle.routing.remote()
                if routing != self._routing:
                    self._configure(routing)
            except Exception as error:  # no router runs, or it is busy: the last one stays
                log.debug("no router says how models are chosen: %r", error)
            await asyncio.sleep(_FOLLOW_S)


async def _stopped(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
