"""Sends a part's texts to the replicas: calls sized in tokens, and a limited number of them at a time."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from anyio import CapacityLimiter

from cluster.corpus.encode.service_client import ServiceClient
from cluster.corpus.errors import JobError
from deployments.core.batch import AnyVectors, Encoded, TokenBatch, Vectors
from deployments.core.batching.packing import split_in_order
from deployments.core.errors import EmbedfleetError, InvalidRequest, SpaceMismatch, TextFailed
from deployments.core.lane import Lane
from deployments.core.models.spec import Kind, ModelSpec
from deployments.core.sparse import SparseVectors
from deployments.wire.calls import texts_of_a_call

log = logging.getLogger(__name__)

# a replica computes one call while the next waits there and the one before travels back
_CALLS_PER_REPLICA = 3
_SECONDS_PER_CALL = 0.25
_CALL_TOKENS = (2_048, 32_768)
_UNKNOWN_CALL_TOKENS = 8_192
_CALL_TIMEOUT_S = 600.0
_PAUSE_S = 2.0
# these reject a text for good; any other error may pass, so the call is repeated
_TEXT_ERRORS = (InvalidRequest, TextFailed)

OnCallDone = Callable[[int, int], None]


def call_tokens(tokens_per_s: float | None) -> int:
    """Returns the size of a call in tokens for replicas of this speed (None if unknown)."""
    if not tokens_per_s:
        return _UNKNOWN_CALL_TOKENS
    low, high = _CALL_TOKENS
    return int(min(high, max(low, tokens_per_s * _SECONDS_PER_CALL)))


def calls_per_worker(replicas: int, workers: int) -> int:
    """Returns how many calls each worker may have in flight; one is enough to wake a cold model."""
    return max(1, math.ceil(max(1, replicas) * _CALLS_PER_REPLICA / workers))


class CallSender:
    """Sends texts to replicas in the offline lane, and repeats calls that fail for a passing reason."""

    def __init__(
        self,
        client: ServiceClient,
        limiter: CapacityLimiter,
        tokens: int,
        spec: ModelSpec,
        patience_s: float,
    ) -> None:
        """``tokens`` is the size of a call, ``spec`` the model.

        ``patience_s`` is how long a call is repeated while replicas do not answer.
        """
        self._client = client
        self._limiter = limiter
        self._tokens = tokens
        self._dimension = 0 if spec.kind is Kind.SPARSE else spec.dimension
        self._patience_s = patience_s
        self._max_texts = texts_of_a_call(spec)

    async def encode(
        self, batch: TokenBatch, on_call_done: OnCallDone
    ) -> tuple[AnyVectors, Mapping[int, str]]:
        """Returns float32 vectors ``(texts, dimension)``, pooled but not normalized, and by row the
        reason for each text that failed. If all texts failed, a sparse model's have no dimension.

        Calls ``on_call_done(texts, tokens)`` after each call. Raises JobError if the replicas refuse
        the texts or stay away.
        """
        # texts of similar length share a call, and so a micro-batch
        order = np.argsort(-batch.lengths, kind="stable")
        vectors: Vectors = np.zeros((len(batch), self._dimension), np.float32)
        sparse: list[tuple[list[int], SparseVectors]] = []
        reasons: dict[int, str] = {}

        async def call(rows: npt.NDArray[np.int64]) -> None:
            async with self._limiter:
                texts = batch.select(rows.tolist())
                encoded = await self._call_until_answered(texts)
            if isinstance(encoded.vectors, SparseVectors):
                sparse.append((rows.tolist(), encoded.vectors))
            elif len(encoded.errors) < len(texts):
                vectors[rows] = encoded.vectors
            reasons.update({int(rows[n]): str(error) for n, error in encoded.errors.items()})
            on_call_done(len(texts), texts.tokens)

        lengths = batch.lengths[order].tolist()
        try:
            async with asyncio.TaskGroup() as group:
                for start, stop in split_in_order(lengths, self._tokens, self._max_texts):
                    group.create_task(call(order[start:stop]))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return SparseVectors.placed(sparse, len(batch)) if sparse else vectors, reasons

    async def _call_until_answered(self, texts: TokenBatch) -> Encoded:
        started = time.monotonic()
        while True:
            try:
                encoded = await self._client.encode_tokens(texts, Lane.OFFLINE, _CALL_TIMEOUT_S)
                passing = [e for e in encoded.errors.values() if not isinstance(e, _TEXT_ERRORS)]
                if not passing:
                    return encoded
                error: EmbedfleetError = passing[0]
            except (InvalidRequest, SpaceMismatch) as refusal:
                raise JobError(f"the replicas refuse this job's texts: {refusal}") from refusal
            except EmbedfleetError as failure:
                error = failure
            if time.monotonic() - started > self._patience_s:
                raise JobError(f"the replicas do not answer: {error}; try again later")
            log.warning("a call failed and will be repeated: %s", error)
            await asyncio.sleep(error.retry_after_s or _PAUSE_S)
