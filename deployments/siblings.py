"""The other replicas of a deployment, as one of them that cannot load its model sees them."""

from __future__ import annotations

import asyncio
import logging
from functools import cached_property

from ray import serve
from ray.serve.handle import DeploymentHandle

from deployments.status import ReplicaState

log = logging.getLogger("ray.serve")
_TIMEOUT_S = 3.0


class Siblings:
    """Asks all replicas of the deployment that this process serves. For one asyncio loop."""

    @cached_property
    def _handle(self) -> DeploymentHandle:
        own = serve.get_replica_context()
        return serve.get_deployment_handle(own.deployment, own.app_name)

    async def any_ready(self) -> bool:
        """Whether one of them has its model; False where none says so in time."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                asked = self._handle.broadcast("status")
                found = await asked.results_async(return_exceptions=True)
        except Exception as error:  # there is none, or the controller is away
            log.debug("no other replica can be asked: %s", error)
            return False
        return any(getattr(one, "state", None) is ReplicaState.READY for one in found)
