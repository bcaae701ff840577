"""Keeps replicas full, and no more: calls sized in tokens, a bounded number of them under way."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from cluster.corpus.errors import JobError
from deployments.client.client import EncoderClient
from deployments.core.batch import Encoded, TokenBatch, Vectors
from deployments.core.batching.packing import split_in_order
from deployments.core.errors import EmbedfleetError, InvalidRequest, SpaceMismatch, TextFailed
from deployments.core.lane import Lane

log = logging.getLogger(__name__)

# a replica computes one call while the next waits there and the one before travels back
_CALLS_PER_REPLICA = 3
_SECONDS_PER_CALL = 0.25
_CALL_TOKENS = (2_048, 32_768)
_UNKNOWN_CALL_TOKENS = 8_192
_MAX_REPLY_BYTES = 3_000_000  # see `deployments/client/client.py`
_CALL_TIMEOUT_S = 600.0
_PATIENCE_S = 900.0
_PAUSE_S = 2.0
# any other error may pass: a row is rejected for good
_OF_THE_TEXT = (InvalidRequest, TextFailed)

Done = Callable[[int, int], None]


def call_tokens(tokens_per_s: float | None) -> int:
    """Returns the size of a call, in tokens, for replicas of this speed (None: not known)."""
    if not tokens_per_s:
        return _UNKNOWN_CALL_TOKENS
    low, high = _CALL_TOKENS
    return int(min(high, max(low, tokens_per_s * _SECONDS_PER_CALL)))


def share(replicas: int, workers: int) -> int:
    """Returns how many calls each of ``workers`` may have under way; one wakes a cold model up."""
    return max(1, math.ceil(max(1, replicas) * _CALLS_PER_REPLICA / workers))


class Slots:
    """A semaphore whose size may change. For one asyncio loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = asyncio.Condition()

    async def resize(self, size: int) -> None:
        """Takes effect at once for those that wait."""
        async with self._changed:
            self._size = size
            self._changed.notify_all()

    async def __aenter__(self) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._taken < self._size)
            self._taken += 1

    async def __aexit__(self, *error: object) -> None:
        async with self._changed:
            self._taken -= 1
            self._changed.notify()


class Flow:
    """Sends texts to replicas in the offline lane. Failures that pass are waited out."""

    def __init__(self, client: EncoderClient, slots: Slots, tokens: int, dimension: int) -> None:
        """``tokens`` is the size of a call, ``dimension`` the model's own."""
        self._client = client
        self._slots = slots
        self._tokens = tokens
        self._dimension = dimension
        self._texts = max(1, _MAX_REPLY_BYTES // (4 * dimension))

    async def encode(self, batch: TokenBatch, done: Done) -> tuple[Vectors, Mapping[int, str]]:
        """Returns float32 vectors ``(texts, dimension)``, pooled and not normalised, and the reason
        for each text that has none, by row.

        ``done`` is told the texts and tokens of each call that ends. Raises JobError when the
        replicas stay away.
        """
        # texts of like length share a call, and so a micro-batch
        order = np.argsort(-batch.lengths, kind="stable")
        vectors: Vectors = np.zeros((len(batch), self._dimension), np.float32)
        reasons: dict[int, str] = {}

        async def call(rows: npt.NDArray[np.int64]) -> None:
            async with self._slots:
                part = batch.select(rows.tolist())
                found = await self._patiently(part)
            vectors[rows] = found.vectors
            reasons.update({int(rows[row]): str(e) for row, e in found.errors.items()})
            done(len(part), part.tokens)

        lengths = batch.lengths[order].tolist()
        try:
            async with asyncio.TaskGroup() as group:
                for start, stop in split_in_order(lengths, self._tokens, self._texts):
                    group.create_task(call(order[start:stop]))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return vectors, reasons

    async def _patiently(self, batch: TokenBatch) -> Encoded:
        started = time.monotonic()
        while True:
            try:
                found = await self._client.encode_tokens(batch, Lane.OFFLINE, _CALL_TIMEOUT_S)
                passing = [e for e in found.errors.values() if not isinstance(e, _OF_THE_TEXT)]
                if not passing:
                    return found
                error: EmbedfleetError = passing[0]
            except (InvalidRequest, SpaceMismatch) as wrong:
                raise JobError(f"the replicas refuse this job: {wrong}") from wrong
            except EmbedfleetError as failed:
                error = failed
            if time.monotonic() - started > _PATIENCE_S:
                raise JobError(f"the replicas do not answer: {error}; run the command again later")
            log.warning("a call failed and is made again: %s", error)
            await asyncio.sleep(error.retry_after_s or _PAUSE_S)
