"""Asks all routers of the service what a tenant has used."""

from __future__ import annotations

import asyncio
import logging
from functools import cached_property

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.core.tenants.usage import TenantUsage, combined

log = logging.getLogger("ray.serve")
_TIMEOUT_S = 3.0


class AllRouters:
    """The routers of the service that this process belongs to. For one asyncio loop."""

    def __init__(self, count: int) -> None:
        """``count`` is how many there should be."""
        self._count = count

    @cached_property
    def _handle(self) -> DeploymentHandle:
        context = serve.get_replica_context()
        return serve.get_deployment_handle(context.deployment, context.app_name)

    async def usage(self, tenant: str, own: TenantUsage) -> TenantUsage:
        """Returns what a tenant has used at all of them, or ``own`` if they do not answer in time."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                responses = self._handle.broadcast("own_usage", tenant)
                answers = await responses.results_async(return_exceptions=True)
        except Exception as error:  # one hangs, or the controller cannot be reached
            log.warning("the usage of other routers is left out: %r", error)
            answers = []
        usages = [answer for answer in answers if isinstance(answer, TenantUsage)] or [own]
        return combined(usages, is_complete=len(usages) >= self._count)
