"""From texts to vectors through a model's replicas; nothing else calls a replica.

texts → prompts → token ids → calls of bounded size → replicas → vectors, reassembled in order. The
router uses it for online requests, the corpus job for offline ones.

A call goes down through layers with one method, ``send`` (`deployments/client/call.py`): they merge small
calls, keep texts that kill replicas from killing more, wait when a lane is full, and reach a replica.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ray.serve.handle import DeploymentHandle

from deployments.client.call import Call, Moved, ReplicaDied, Sender
from deployments.client.coalescing import Coalescing
from deployments.client.connections import Connections
from deployments.client.direct_transport import DirectTransport
from deployments.client.handle_transport import HandleTransport
from deployments.client.poison import PoisonIsolation
from deployments.client.preprocessing import Preprocessor, load_preprocessor
from deployments.client.retrying import RetryMoved, RetryOverload
from deployments.client.versions import Version, Versions
from deployments.config.schema import ModelConfig
from deployments.core.awaiting import gather_or_cancel, in_time
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.batching.packing import split_in_order
from deployments.core.errors import EmbedfleetError, ModelUnavailable, SpaceMismatch
from deployments.core.lane import Lane
from deployments.core.models.spec import ModelSpec
from deployments.core.request import Embeddings, EncodeRequest, check_dimensions
from deployments.ray_private import known_replicas
from deployments.traces.spans import span
from deployments.wire.calls import texts_of_a_call
from deployments.wire.status import ModelStatus, ReplicaStatus, assume_ready
from deployments.wire.trials import ClusterRecord

log = logging.getLogger("ray.serve")

_MAX_CALL_TOKENS = 32_768
_CALLS_AT_ONCE = 8
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
        """``cold_wait_s`` is how long an online call waits for a model that has no replica ready."""
        self._name = config.name
        self._status = status
        self._cold_wait_s = cold_wait_s
        self._versions = Versions(config, load_preprocessor)
        self._connections = Connections(config.name, partial(known_replicas, handle.encode))
        by_handle = HandleTransport(config.name, handle, status, cold_wait_s)
        self._transport = DirectTransport(config.name, self._connections, by_handle, status)
        offline = RetryOverload(self._transport, [Lane.OFFLINE])
        self._calls = Coalescing(PoisonIsolation(offline, ClusterRecord(config.name)))
        # the lane may refuse a request, but not half of it: what is full then may be its own work
        self._first_part = RetryMoved(self._calls)
        self._later_part = RetryMoved(RetryOverload(self._calls, list(Lane)))

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

        Calls that a dying replica lost are sent again. Raises InvalidRequest for what the model
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
        preprocessor = version.preprocessor
        check_dimensions(preprocessor.spec, request.dimensions)
        with span("tokenize", model=self._name):
            tokenized = await in_time(preprocessor.tokenized(request), deadline)
        call = Call(tokenized.batch, lane, deadline, version.space, share=request.share)
        replies = await self._send(call, texts_of_a_call(preprocessor.spec))
        return await preprocessor.finished(request, tokenized, replies)

    async def _send(self, call: Call, most_texts: int) -> Sequence[Encoded]:
        """Returns the answers to a request's texts, which are split into calls of bounded size."""
        cuts = split_in_order(call.batch.lengths.tolist(), _MAX_CALL_TOKENS, most_texts)
        if len(cuts) == 1:
            return [await self._traced(self._calls, call)]
        slots = asyncio.Semaphore(_CALLS_AT_ONCE)

        async def send(start: int, stop: int) -> Encoded:
            layers = self._later_part if start else self._first_part
            async with slots:
                return await self._traced(
                    layers, replace(call, batch=call.batch.slice(start, stop))
                )

        return await gather_or_cancel(*(send(*cut) for cut in cuts))

    async def _traced(self, layers: Sender, call: Call) -> Encoded:
        texts, tokens = len(call.batch), call.batch.tokens
        about = {"model": self._name, "space": call.space, "lane": call.lane.value}
        with span("encode", **about, texts=texts, tokens=tokens) as sent:
            reply = await layers.send(call)
            sent.split(reply.queued_s, reply.computed_s)
            return reply

    async def encode_tokens(self, batch: TokenBatch, lane: Lane, timeout_s: float) -> Encoded:
        """Returns the answer to one call of this size, with each failed row's own error in it.

        Errors of the whole call as `encode`, and SpaceMismatch if the model was replaced by one of
        another space since its tokenizer was read.
        """
        version = await self._versions.ready(timeout_s)
        call = Call(batch, lane, time.monotonic() + timeout_s, version.space)
        try:
            return await self._calls.send(call)
        except Moved as moved:
            raise SpaceMismatch(
                f"{self._name} answers in space {moved.version.space} now, no longer in "
                f"{version.space}",
                "space",
            ) from None

    async def follow_replica(self, timeout_s: float) -> None:
        """Takes over the version that a replica has, if the config's own files cannot be read.

        After an update to files that do not exist, the old replicas serve on, and so does this client.
        """
        if not self._versions.is_unreadable:
            return
        call = Call(_NOTHING, Lane.ONLINE, time.monotonic() + timeout_s, space="")
        try:
            await self._transport.send(call)
        except Moved as moved:
            await self._follow(moved, timeout_s)
        except (EmbedfleetError, ReplicaDied) as error:
            log.debug("%s: no replica says which version it has: %s", self._name, error)

    async def _follow(self, moved: Moved, timeout_s: float) -> None:
        try:
            await self._versions.move(moved.version, timeout_s)
        except EmbedfleetError as error:
            log.debug("%s: the replica's version cannot be read: %s", self._name, error)

    def statuses(self) -> list[ReplicaStatus]:
        """Returns what each replica with a connection said last. Call it in the event loop."""
        self._connections.start()
        return self._connections.statuses()

    def close(self) -> None:
        """Closes the connections, and gives up loading the tokenizer, if that still goes on."""
        self._connections.close()
        self._versions.close()

    async def ready_preprocessor(self, timeout_s: float) -> Preprocessor:
        """Returns the model's description and tokenizer, waiting for them if they are being read.

        Raises ModelUnavailable with the reason.
        """
        return (await self._versions.ready(timeout_s)).preprocessor

    def _refuse_if_unavailable(self) -> None:
        status = self._status()
        if status.refuses:
            raise ModelUnavailable(
                f"{self._name} is unavailable: {status.reason}", "model", retry_after_s=5.0
            )
