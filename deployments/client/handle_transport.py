"""The lowest layer of the client: sends calls to replicas through Ray Serve's handle.

No other module of the client knows the handle or Ray's exceptions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from grpc.aio import AioRpcError
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from deployments.client.call import Call, Moved, ReplicaDied
from deployments.core.batch import Encoded
from deployments.core.errors import EmbedfleetError, ModelUnavailable, Overloaded
from deployments.core.lane import Lane
from deployments.wire.calls import OtherVersion
from deployments.wire.status import ModelState, ModelStatus, late

log = logging.getLogger("ray.serve")

_REPLICA_DIED = (RayActorError, ReplicaUnavailableError, AioRpcError)
_PAUSE_AFTER_DEATH_S = 0.2  # until Serve's handle sees that the replica has gone


class HandleTransport:
    """Sends calls to the replicas of one model."""

    def __init__(
        self,
        name: str,
        handle: DeploymentHandle,
        status: Callable[[], ModelStatus],
        cold_wait_s: float,
    ) -> None:
        """``cold_wait_s`` is how long an online call waits for a model that has no replica ready."""
        self._name = name
        self._remote = handle.encode
        self._status = status
        self._cold_wait_s = cold_wait_s

    async def send(self, call: Call) -> Encoded:
        """As `Sender.send`. Cancels the call at the replica if it is cancelled or late."""
        try:
            reply = await self._reply(call)
        except _REPLICA_DIED as error:
            log.debug("%s: %s", self._name, error)
            raise await self._death(call) from None
        if isinstance(reply, Encoded):
            return reply
        raise Moved(reply) if isinstance(reply, OtherVersion) else reply

    async def _death(self, call: Call) -> ModelUnavailable | ReplicaDied:
        """Returns the error of a call whose replica has died, once the call may be sent again."""
        if call.left_s <= _PAUSE_AFTER_DEATH_S:
            return ModelUnavailable(
                f"{self._name}: its replica died", "model", _PAUSE_AFTER_DEATH_S
            )
        await asyncio.sleep(_PAUSE_AFTER_DEATH_S)
        return ReplicaDied(f"a replica of {self._name} has died")

    async def _reply(self, call: Call) -> Encoded | OtherVersion | EmbedfleetError:
        batch, timeout_s = call.batch, self._patience_s(call)
        # left out where they say nothing: a replica of an older version does not know them
        prompts = {} if batch.prompts is None else {"prompts": batch.prompts}
        response = self._remote.remote(
            batch.ids, batch.lengths, call.lane.value, timeout_s, call.terms, **prompts
        )
        try:
            async with asyncio.timeout(timeout_s):
                reply: Encoded | OtherVersion | EmbedfleetError = await response
                return reply
        except TimeoutError:
            response.cancel()
            raise late(self._name, self._status(), call.lane, call.left_s) from None
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            return Overloaded(f"{self._name} has too many calls waiting", None, 1.0)
        except DeploymentUnavailableError:
            return ModelUnavailable(f"{self._name}: its deployment failed", "model", 5.0)

    def _patience_s(self, call: Call) -> float:
        """A call that a dead replica has lost was accepted once: it waits for a replica to start."""
        left_s = max(0.0, call.left_s)
        if call.lane is Lane.OFFLINE or call.trial or self._status().state is ModelState.READY:
            return left_s
        return min(left_s, self._cold_wait_s)
