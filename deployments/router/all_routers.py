"""Asks all routers of the service, and the runner of its batches, what a tenant has used."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import cached_property

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.core.tenants.usage import TenantUsage, combined

log = logging.getLogger("ray.serve")
_TIMEOUT_S = 3.0


class AllRouters:
    """The routers of the service that this process belongs to. For one asyncio loop."""

    def __init__(self, count: int, runner: DeploymentHandle | None = None) -> None:
        """``count`` is how many there should be; ``runner`` runs batches, if any are."""
        self._count = count
        self._runner = runner

    @cached_property
    def _handle(self) -> DeploymentHandle:
        context = serve.get_replica_context()
        return serve.get_deployment_handle(context.deployment, context.app_name)

    async def usage(self, tenant: str, own: TenantUsage) -> TenantUsage:
        """Returns what a tenant has used at all of them and in batches; of those that do not answer in
        time, at least ``own``.
        """
        of_routers, of_batches = await asyncio.gather(
            self._of_routers(tenant, own), self._of_batches(tenant)
        )
        is_complete = len(of_routers) >= self._count and of_batches is not None
        return combined([*of_routers, *(of_batches or ())], is_complete)

    async def _of_routers(self, tenant: str, own: TenantUsage) -> list[TenantUsage]:
        if self._count == 1:
            return [own]
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                responses = self._handle.broadcast("own_usage", tenant)
                answers = await responses.results_async(return_exceptions=True)
        except Exception as error:  # one hangs, or the controller cannot be reached
            log.warning("the usage of other routers is left out: %r", error)
            return [own]
        return [answer for answer in answers if isinstance(answer, TenantUsage)] or [own]

    async def _of_batches(self, tenant: str) -> list[TenantUsage] | None:
        """Returns what the runner has used for a tenant; None if it does not answer."""
        if self._runner is None:
            return []
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                used: TenantUsage = await self._runner.own_usage.remote(tenant)
        except Exception as error:
            log.warning("the usage of batches is left out: %r", error)
            return None
        return [replace(used, routers=0)]
