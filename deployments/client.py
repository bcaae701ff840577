"""From texts to vectors through a model's replicas; nothing else calls a replica.

texts → prompts → token ids → calls of bounded size → replicas → vectors, reassembled in order. The
router uses it for online requests, the corpus job for offline ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from deployments.coalescing import Coalescer
from deployments.config import ModelConfig
from deployments.embedding.batch import Encoded, TokenBatch
from deployments.embedding.errors import (
    DeadlineExceeded,
    EmbedfleetError,
    ModelUnavailable,
    Overloaded,
)
from deployments.embedding.hosting import Hosted
from deployments.embedding.lanes import Lane
from deployments.embedding.model import ModelSpec
from deployments.embedding.packing import split_in_order
from deployments.embedding.prompts import effective_instruction
from deployments.embedding.request import Embeddings, EncodeRequest, check_dimensions
from deployments.embedding.space import space_id
from deployments.embedding.vectors import finished
from deployments.front import Front, load_front
from deployments.status import ModelState, ModelStatus

log = logging.getLogger("ray.serve")

# gRPC between replicas takes 4 MB a message (RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH)
_MAX_REPLY_BYTES = 3_000_000
_MAX_CALL_TOKENS = 32_768
_CALLS_AT_ONCE = 8
_REPLICA_DIED = (RayActorError, ReplicaUnavailableError)
_PAUSE_AFTER_DEATH_S = 0.2


def assume_ready() -> ModelStatus:
    """Stands in where nobody watches the replicas: each call then waits until its deadline."""
    return ModelStatus(ModelState.READY)


class EncoderClient:
    """Encodes texts with one model. Works in any asyncio loop of a process that can reach Ray."""

    def __init__(
        self,
        config: ModelConfig,
        handle: DeploymentHandle,
        status: Callable[[], ModelStatus] = assume_ready,
        cold_wait_s: float = 4.0,
    ) -> None:
        """``cold_wait_s`` is how long a call waits for a model that has no replica ready."""
        self._name = config.name
        self._remote = handle.encode
        self._status = status
        self._cold_wait_s = cold_wait_s
        self._coalescer = Coalescer(self._call)
        self._front: Hosted[Front] = Hosted(lambda: load_front(config), config.name)

    @property
    def front(self) -> Front | None:
        """The model's tokenizer and description; None while they have not been read."""
        return self._front.value

    @property
    def spec(self) -> ModelSpec | None:
        """The model's description; None while its files have not been read."""
        return self._front.value.spec if self._front.value else None

    async def encode(self, request: EncodeRequest, lane: Lane, timeout_s: float) -> Embeddings:
        """Returns the vectors of a request's texts, in order.

        Calls that a dying replica lost are made again. Raises InvalidRequest for what the model
        cannot honour, Overloaded (online only: offline waits), ModelUnavailable with the reason,
        DeadlineExceeded after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        self._refuse_if_unavailable()
        front = await self.ready_front(min(timeout_s, self._cold_wait_s))
        spec = front.spec
        dimensions = check_dimensions(spec, request.dimensions)
        tokenized = await front.tokenized(request)
        replies = await self._calls(tokenized.batch, spec.dimension, lane, deadline)
        for reply in replies:
            if reply.errors:
                raise next(iter(reply.errors.values()))
        normalize = spec.normalize if request.normalize is None else request.normalize
        vectors = np.concatenate([reply.vectors for reply in replies])
        return Embeddings(
            vectors=finished(vectors, dimensions, normalize),
            model=spec.name,
            space=space_id(spec, dimensions),
            tokens=tokenized.batch.tokens,
            truncated=tokenized.truncated,
            instruction=effective_instruction(spec, request.role, request.instruction),
            queued_s=max(reply.queued_s for reply in replies),
            computed_s=sum(reply.computed_s for reply in replies),
        )

    async def encode_tokens(self, batch: TokenBatch, lane: Lane, timeout_s: float) -> Encoded:
        """Returns the answer to one call of this size, with each failed row's own error in it.

        Errors of the whole call as `encode`.
        """
        return await self._call(batch, lane, time.monotonic() + timeout_s)

    def close(self) -> None:
        """Gives up loading the tokenizer, if that still goes on."""
        self._front.stop()

    async def ready_front(self, timeout_s: float) -> Front:
        """Returns the model's description and tokenizer, waiting for them if they are being read.

        Raises ModelUnavailable with the reason.
        """
        if self._front.value is None and self._front.failure is None:
            await asyncio.to_thread(self._front.wait, timeout_s)
        return self._front.get()

    async def _calls(
        self, batch: TokenBatch, dimension: int, lane: Lane, deadline: float
    ) -> Sequence[Encoded]:
        most_texts = max(1, _MAX_REPLY_BYTES // (4 * dimension))
        cuts = split_in_order(batch.lengths.tolist(), _MAX_CALL_TOKENS, most_texts)
        if len(cuts) == 1:
            return [await self._coalescer.encode(batch, lane, deadline)]
        slots = asyncio.Semaphore(_CALLS_AT_ONCE)

        async def part(start: int, stop: int) -> Encoded:
            async with slots:
                return await self._call(batch.slice(start, stop), lane, deadline)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(part(*cut)) for cut in cuts]
        except ExceptionGroup as failed:  # the first error; the group has cancelled the others
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _call(self, batch: TokenBatch, lane: Lane, deadline: float) -> Encoded:
        while True:
            try:
                reply = await self._attempt(batch, lane, deadline)
            except _REPLICA_DIED as error:
                log.warning("%s: a replica died, calling again: %s", self._name, error)
                reply = ModelUnavailable(
                    f"{self._name}: its replica died", "model", _PAUSE_AFTER_DEATH_S
                )
                again = True
            else:
                again = lane is Lane.OFFLINE and isinstance(reply, Overloaded)
            if isinstance(reply, Encoded):
                return reply
            pause = reply.retry_after_s or _PAUSE_AFTER_DEATH_S
            if not again or time.monotonic() + pause >= deadline:
                raise reply
            await asyncio.sleep(pause)

    async def _attempt(
        self, batch: TokenBatch, lane: Lane, deadline: float
    ) -> Encoded | EmbedfleetError:
        timeout_s = self._patience(lane, deadline)
        response = self._remote.remote(batch.ids, batch.lengths, lane.value, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                reply: Encoded | EmbedfleetError = await response
                return reply
        except TimeoutError:
            response.cancel()
            raise self._late(lane, deadline) from None
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            return Overloaded(f"{self._name} has too many calls waiting", None, 1.0)
        except DeploymentUnavailableError:
            return ModelUnavailable(f"{self._name}: its deployment failed", "model", 5.0)

    def _patience(self, lane: Lane, deadline: float) -> float:
        left = max(0.0, deadline - time.monotonic())
        if lane is Lane.OFFLINE or self._status().state is ModelState.READY:
            return left
        return min(left, self._cold_wait_s)

    def _late(self, lane: Lane, deadline: float) -> EmbedfleetError:
        status = self._status()
        if status.state is ModelState.READY and time.monotonic() < deadline - 0.1:
            return ModelUnavailable(f"{self._name} was cold and has just started", "model", 1.0)
        if lane is Lane.ONLINE and status.state is not ModelState.READY:
            reason = status.reason or "no replica is ready"
            return ModelUnavailable(f"{self._name} is {status.state}: {reason}", "model", 5.0)
        return DeadlineExceeded(f"{self._name} did not answer within the deadline")

    def _refuse_if_unavailable(self) -> None:
        status = self._status()
        if status.state is ModelState.UNAVAILABLE:
            raise ModelUnavailable(
                f"{self._name} is unavailable: {status.reason}", "model", retry_after_s=5.0
            )
