"""The deployment of one model: a replica holds its weights, and takes token ids for vectors.

A model that cannot load does not crash its replica: the replica answers each call with the reason,
and loads again until the cause is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass

import torch

from deployments.config import Limits, ModelConfig
from deployments.embedding.batch import Encoded, Ids, TokenBatch
from deployments.embedding.device import default_token_budget
from deployments.embedding.engine import TorchEngine
from deployments.embedding.errors import EmbedfleetError
from deployments.embedding.hosting import Hosted
from deployments.embedding.lanes import Lane, LaneLimits
from deployments.embedding.loading import find_model
from deployments.embedding.model import ModelSpec
from deployments.embedding.tokenizer import check_ids
from deployments.embedding.warmup import measure_tokens_per_s, sample
from deployments.embedding.worker import Worker
from deployments.metrics import WorkerMetrics
from deployments.status import ReplicaState, ReplicaStatus

log = logging.getLogger("ray.serve")
_IDLE_BEFORE_PROBE_S = 60.0
_PROBE_TIMEOUT_S = 20.0
_FAILURES_BEFORE_PROBE = 3


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to encode."""

    spec: ModelSpec
    engine: TorchEngine
    worker: Worker


class Encoder:
    """One replica of one model. Knows token ids, lanes and vectors; no texts, no HTTP."""

    def __init__(self, config: ModelConfig, limits: Limits) -> None:
        """Returns once the model is loaded, or its first attempt has failed."""
        self._config = config
        self._limits = limits
        self._model = Hosted(self._load, config.name)
        while not self._model.wait(timeout_s=30.0):
            log.info("%s is still loading", config.name)

    async def encode(
        self, ids: Ids, lengths: Ids, lane: str, timeout_s: float
    ) -> Encoded | EmbedfleetError:
        """Returns the vectors of a call's texts, or the error that answers it.

        Refusals come back as values: they are ordinary answers, not failures of the replica.
        Cancelling the call drops the texts that have not been computed.
        """
        try:
            loaded = self._model.get()
            batch = TokenBatch(ids, lengths)
            check_ids(batch, loaded.engine.vocabulary)
            return await asyncio.wrap_future(loaded.worker.submit(batch, Lane(lane), timeout_s))
        except EmbedfleetError as error:
            return error

    async def status(self) -> ReplicaStatus:
        """Returns what this replica is, for `/v1/models`."""
        loaded = self._model.value
        if loaded is None:
            failure = self._model.failure
            state = ReplicaState.LOADING if failure is None else ReplicaState.UNAVAILABLE
            return ReplicaStatus(state, failure or "loading")
        engine = loaded.engine
        return ReplicaStatus(
            ReplicaState.READY,
            device=_device_name(engine.device),
            dtype=str(engine.dtype).removeprefix("torch."),
            tokens_per_s=round(loaded.worker.tokens_per_s),
        )

    async def check_health(self) -> None:
        """Raises when the engine's loop has ended, or a real forward pass fails or hangs.

        Serve then replaces this replica.
        """
        loaded = self._model.value
        if loaded is None:
            return
        if not loaded.worker.alive:
            raise RuntimeError(f"{self._config.name}: the engine's loop has ended")
        if _needs_probe(loaded.worker):
            probe = loaded.worker.submit(sample(loaded.engine, 1, 8), Lane.ONLINE, _PROBE_TIMEOUT_S)
            await asyncio.wait_for(asyncio.wrap_future(probe), _PROBE_TIMEOUT_S)

    def __del__(self) -> None:
        self._model.stop()
        if (loaded := self._model.value) is not None:
            loaded.worker.stop(timeout_s=1.0)

    def _load(self) -> Loaded:
        started = time.monotonic()
        config = self._config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        files = find_model(config.name, config.path, config.revision)
        engine = TorchEngine(files.spec, files.folder, config.device, config.dtype)
        budget = config.token_budget or default_token_budget(engine.device)
        speed = measure_tokens_per_s(engine, budget, files.spec.max_tokens)
        log.info(
            "%s is ready after %.1f s: %s on %s, %d threads, %.0f tokens/s, token budget %d, pid %d",
            config.name,
            time.monotonic() - started,
            engine.dtype,
            _device_name(engine.device),
            torch.get_num_threads(),
            speed,
            budget,
            os.getpid(),
        )
        return Loaded(files.spec, engine, self._worker(engine, budget, speed))

    def _worker(self, engine: TorchEngine, budget: int, tokens_per_s: float) -> Worker:
        limits = LaneLimits(budget, budget // 4, self._limits.offline_patience_s)
        waits = {
            Lane.ONLINE: self._limits.online_max_wait_s,
            Lane.OFFLINE: self._limits.offline_max_wait_s,
        }
        return Worker(engine, limits, waits, tokens_per_s, WorkerMetrics(self._config.name, budget))


def _needs_probe(worker: Worker) -> bool:
    if worker.consecutive_failures >= _FAILURES_BEFORE_PROBE:
        return True
    last = worker.last_success
    return last is None or time.monotonic() - last > _IDLE_BEFORE_PROBE_S


def _device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return f"{device} ({torch.cuda.get_device_name(device)})"
