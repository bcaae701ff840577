"""Encodes rows of texts, valid or not: what workers of corpus jobs and of pipelines have in common."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from anyio import CapacityLimiter

from cluster.corpus.encode.calls import CallSender, OnCallDone, call_tokens, calls_per_worker
from cluster.corpus.encode.service_client import ServiceClient
from cluster.corpus.errors import JobError
from cluster.corpus.prepare.documents import Documents, TextOptions, check_chunk, prepare
from cluster.corpus.prepare.pairs import prepare_pairs
from cluster.corpus.read.rows import Rows
from deployments.client.preprocessing import Preprocessor
from deployments.config.schema import ModelConfig
from deployments.core.batch import AnyVectors
from deployments.core.errors import InvalidRequest
from deployments.core.sparse import SparseVectors
from deployments.core.vectors import finished, scores

_TOKENIZER_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Target:
    """Which replicas encode, and how.

    ``app`` is the Serve application, ``tokens_per_s`` the speed of a replica if it is known. ``workers``
    share the calls that the replicas can take. ``wait_s`` is how long replicas may stay away.
    """

    app: str
    config: ModelConfig
    tokens_per_s: float | None
    replicas: int
    workers: int
    options: TextOptions
    dimensions: int
    wait_s: float


class RowEncoder:
    """One worker's way from rows to vectors, in the offline lane."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._limiter = CapacityLimiter(calls_per_worker(target.replicas, target.workers))

    @cached_property
    def client(self) -> ServiceClient:
        """Created inside the event loop."""
        return ServiceClient(self._target.config, self._target.app)

    async def prepare(self, rows: Rows) -> tuple[Preprocessor, Documents]:
        """Returns the rows' token ids, and what made them.

        Raises JobError if chunks do not fit the model, ModelUnavailable if there is no tokenizer.
        """
        preprocessor = await self.client.ready_preprocessor(_TOKENIZER_TIMEOUT_S)
        return preprocessor, await asyncio.to_thread(self._prepare, preprocessor, rows)

    def _prepare(self, preprocessor: Preprocessor, rows: Rows) -> Documents:
        if self._target.options.pairs is not None:
            return prepare_pairs(preprocessor, rows, self._target.options)
        try:
            check_chunk(preprocessor, self._target.options)
        except InvalidRequest as error:
            raise JobError(str(error)) from error
        return prepare(preprocessor, rows, self._target.options)

    async def encode(
        self, preprocessor: Preprocessor, documents: Documents, on_call_done: OnCallDone
    ) -> AnyVectors:
        """Returns finished vectors, one for each item, and rejects the rows whose texts failed. Those of
        pairs are their scores, ``(pairs, 1)``.

        Raises JobError as `CallSender.encode`.
        """
        target, spec = self._target, preprocessor.spec
        if documents.batch is None:
            return np.zeros((0, target.dimensions), np.float32)
        tokens = call_tokens(target.tokens_per_s)
        sender = CallSender(self.client, self._limiter, tokens, spec, target.wait_s)
        vectors, reasons = await sender.encode(documents.batch, on_call_done)
        for item, reason in reasons.items():
            documents.rejected[documents.items[item].row] = reason
        if isinstance(vectors, SparseVectors):
            return vectors
        if (pairs := target.options.pairs) is not None:
            return scores(vectors, spec.activation, pairs.raw_scores)
        return finished(vectors, target.dimensions, spec.normalize)

    async def follow(self) -> int:
        """Follows the service and its number of replicas, which it returns. Call it now and then."""
        await self.client.follow()
        if replicas := self.client.replicas:
            self._limiter.total_tokens = calls_per_worker(replicas, self._target.workers)
        return replicas
