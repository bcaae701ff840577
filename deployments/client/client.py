"""From texts to vectors through a model's replicas; nothing else calls a replica.

texts → prompts → token ids → calls of bounded size → replicas → vectors, reassembled in order. The
router uses it for online requests, the corpus job for offline ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from grpc.aio import AioRpcError
from ray.exceptions import RayActorError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from deployments.client.coalescing import Call
from deployments.client.poison import Isolation, ReplicaDied, Suspects
from deployments.client.preprocessing import Preprocessor, load_preprocessor
from deployments.client.versions import Moved, Version, Versions, insistent
from deployments.config.schema import ModelConfig
from deployments.core.awaiting import gather_or_cancel, in_time
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.batching.packing import split_in_order
from deployments.core.errors import EmbedfleetError, ModelUnavailable, Overloaded, SpaceMismatch
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.models.spec import ModelSpec
from deployments.core.request import Embeddings, EncodeRequest, check_dimensions
from deployments.wire.calls import OtherVersion, Terms
from deployments.wire.status import ModelState, ModelStatus, assume_ready, late
from deployments.wire.trials import ClusterRecord

log = logging.getLogger("ray.serve")

# gRPC between replicas takes 4 MB a message (RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH)
_MAX_REPLY_BYTES = 3_000_000
_MAX_CALL_TOKENS = 32_768
_CALLS_AT_ONCE = 8
_REPLICA_DIED = (RayActorError, ReplicaUnavailableError, AioRpcError)
_PAUSE_AFTER_DEATH_S = 0.2
_NOTHING = TokenBatch.from_lists([])


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
        self._isolation = Isolation(Suspects(), ClusterRecord(config.name))
        self._versions = Versions(config, load_preprocessor, self._calls_to)

    @property
    def preprocessor(self) -> Preprocessor | None:
        """The model's tokenizer and description; None while they have not been read."""
        latest = self._versions.latest
        return latest.preprocessor if latest else None

    @property
    def spec(self) -> ModelSpec | None:
        """The model's description; None while its files have not been read."""
        return self.preprocessor.spec if self.preprocessor else None

    async def encode(self, request: EncodeRequest, lane: Lane, timeout_s: float) -> Embeddings:
        """Returns the vectors of a request's texts, in order.

        Calls that a dying replica lost are made again. Raises InvalidRequest for what the model
        cannot honour, Overloaded (online only: offline waits), ModelUnavailable with the reason,
        DeadlineExceeded after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        self._refuse_if_unavailable()
        version = await self._versions.ready(min(timeout_s, self._cold_wait_s))
        while True:
            try:
                return await self._encode(version, request, lane, deadline)
            except Moved as moved:
                version = await self._versions.move(moved.version, deadline - time.monotonic())

    async def _encode(
        self, version: Version, request: EncodeRequest, lane: Lane, deadline: float
    ) -> Embeddings:
        check_dimensions(version.preprocessor.spec, request.dimensions)
        tokenized = await in_time(version.preprocessor.tokenized(request), deadline)
        replies = await self._calls(version, tokenized.batch, lane, deadline)
        return await version.preprocessor.finished(request, tokenized, replies)

    async def encode_tokens(self, batch: TokenBatch, lane: Lane, timeout_s: float) -> Encoded:
        """Returns the answer to one call of this size, with each failed row's own error in it.

        Errors of the whole call as `encode`, and SpaceMismatch where the model was replaced by one
        of another space since its tokenizer was read.
        """
        version = await self._versions.ready(timeout_s)
        try:
            return await self._calls_to(version.preprocessor)(
                batch, lane, time.monotonic() + timeout_s
            )
        except Moved as moved:
            raise SpaceMismatch(
                f"{self._name} answers in space {moved.version.space} now, no longer in "
                f"{version.space}",
                "space",
            ) from None

    async def follow_replica(self, timeout_s: float) -> None:
        """Takes over the version that a replica has, where the config's own files cannot be read.

        After an update to files that are not there the old replicas serve on, and so does this.
        """
        if not self._versions.is_unreadable:
            return
        deadline = time.monotonic() + timeout_s
        try:
            reply = await self._attempt(_NOTHING, Lane.ONLINE, deadline, "", None)
            if isinstance(reply, OtherVersion):
                await self._versions.move(reply, timeout_s)
        except (EmbedfleetError, *_REPLICA_DIED) as error:
            log.debug("%s: no replica says which version it has: %s", self._name, error)

    def close(self) -> None:
        """Gives up loading the tokenizer, if that still goes on."""
        self._versions.close()

    async def ready_preprocessor(self, timeout_s: float) -> Preprocessor:
        """Returns the model's description and tokenizer, waiting for them if they are being read.

        Raises ModelUnavailable with the reason.
        """
        return (await self._versions.ready(timeout_s)).preprocessor

    async def _calls(
        self, version: Version, batch: TokenBatch, lane: Lane, deadline: float
    ) -> Sequence[Encoded]:
        most_texts = max(1, _MAX_REPLY_BYTES // (4 * version.preprocessor.spec.dimension))
        cuts = split_in_order(batch.lengths.tolist(), _MAX_CALL_TOKENS, most_texts)
        if len(cuts) == 1:
            return [await version.coalescer.encode(batch, lane, deadline)]
        # the lane may refuse a request, but not half of it: what is full then may be its own work
        first = self._calls_to(version.preprocessor)
        later = self._calls_to(version.preprocessor, waits=True)
        slots = asyncio.Semaphore(_CALLS_AT_ONCE)

        async def part(start: int, stop: int) -> Encoded:
            call = later if start else first
            async with slots:
                return await insistent(call, batch.slice(start, stop), lane, deadline)

        return await gather_or_cancel(*(part(*cut) for cut in cuts))

    def _calls_to(self, preprocessor: Preprocessor, waits: bool = False) -> Call:
        """Returns what makes calls whose token ids are those of one version.

        Online calls that are refused for overload are made again where the caller ``waits``.
        """
        space, dimension = space_id(preprocessor.spec), preprocessor.spec.dimension

        async def send(
            batch: TokenBatch, lane: Lane, deadline: float, trial: str | None
        ) -> Encoded:
            while True:
                try:
                    return await self._call(batch, lane, deadline, space, trial)
                except Overloaded as full:
                    pause = full.retry_after_s or _PAUSE_AFTER_DEATH_S
                    again = waits or lane is Lane.OFFLINE
                    if not again or time.monotonic() + pause >= deadline:
                        raise
                await asyncio.sleep(pause)

        async def call(batch: TokenBatch, lane: Lane, deadline: float) -> Encoded:
            return await self._isolation.call(send, dimension, batch, lane, deadline)

        return call

    async def _call(
        self, batch: TokenBatch, lane: Lane, deadline: float, space: str, trial: str | None
    ) -> Encoded:
        try:
            reply = await self._attempt(batch, lane, deadline, space, trial)
        except _REPLICA_DIED as error:
            log.debug("%s: %s", self._name, error)
            if time.monotonic() + _PAUSE_AFTER_DEATH_S >= deadline:
                raise ModelUnavailable(
                    f"{self._name}: its replica died", "model", _PAUSE_AFTER_DEATH_S
                ) from None
            await asyncio.sleep(_PAUSE_AFTER_DEATH_S)
            raise ReplicaDied(f"a replica of {self._name} has died") from None
        if isinstance(reply, Encoded):
            return reply
        raise Moved(reply) if isinstance(reply, OtherVersion) else reply

    async def _attempt(
        self, batch: TokenBatch, lane: Lane, deadline: float, space: str, trial: str | None
    ) -> Encoded | OtherVersion | EmbedfleetError:
        timeout_s = self._patience(lane, deadline, trial)
        response = self._remote.remote(
            batch.ids, batch.lengths, lane.value, timeout_s, Terms(space, trial)
        )
        try:
            async with asyncio.timeout(timeout_s):
                reply: Encoded | OtherVersion | EmbedfleetError = await response
                return reply
        except TimeoutError:
            response.cancel()
            raise late(self._name, self._status(), lane, deadline - time.monotonic()) from None
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            return Overloaded(f"{self._name} has too many calls waiting", None, 1.0)
        except DeploymentUnavailableError:
            return ModelUnavailable(f"{self._name}: its deployment failed", "model", 5.0)

    def _patience(self, lane: Lane, deadline: float, trial: str | None) -> float:
        """What a death has lost was accepted once: it waits for another replica to start."""
        left = max(0.0, deadline - time.monotonic())
        if lane is Lane.OFFLINE or trial or self._status().state is ModelState.READY:
            return left
        return min(left, self._cold_wait_s)

    def _refuse_if_unavailable(self) -> None:
        status = self._status()
        if status.refuses:
            raise ModelUnavailable(
                f"{self._name} is unavailable: {status.reason}", "model", retry_after_s=5.0
            )
