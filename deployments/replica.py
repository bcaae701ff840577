"""A model made ready to encode on this machine. Loads torch, so only replicas import it."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass

import torch

from deployments.config import Limits, ModelConfig
from deployments.embedding.device import default_token_budget
from deployments.embedding.engine import TorchEngine
from deployments.embedding.lanes import Lane, LaneLimits
from deployments.embedding.loading import find_model
from deployments.embedding.model import ModelSpec
from deployments.embedding.warmup import measure_tokens_per_s
from deployments.embedding.worker import Worker
from deployments.metrics import WorkerMetrics

log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class LoadedModel:
    """A model with its engine running; ``start_s`` is how long it took to load."""

    spec: ModelSpec
    engine: TorchEngine
    worker: Worker
    start_s: float
    budget: int

    @property
    def pass_s(self) -> float:
        """Seconds that a full forward pass takes, by the measured speed."""
        return self.budget / self.worker.tokens_per_s

    @property
    def device(self) -> str:
        """The device, with its product name where it has one."""
        device = self.engine.device
        if device.type != "cuda":
            return device.type
        return f"{device} ({torch.cuda.get_device_name(device)})"

    @property
    def dtype(self) -> str:
        """The precision of the weights."""
        return str(self.engine.dtype).removeprefix("torch.")


def load_model(config: ModelConfig, limits: Limits) -> LoadedModel:
    """Fetches, checks, loads and warms up a model.

    Raises ModelUnavailable or UnsupportedModel with the reason and the remedy.
    """
    started = time.monotonic()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    files = find_model(config.name, config.path, config.revision)
    engine = TorchEngine(files.spec, files.folder, config.device, config.dtype)
    budget = config.token_budget or default_token_budget(engine.device)
    speed = measure_tokens_per_s(engine, budget, files.spec.max_tokens)
    worker = Worker(
        engine,
        LaneLimits(budget, budget // 2, limits.offline_patience_s, pads=engine.pads),
        {Lane.ONLINE: limits.online_max_wait_s, Lane.OFFLINE: limits.offline_max_wait_s},
        speed,
        WorkerMetrics(config.name, budget),
    )
    model = LoadedModel(files.spec, engine, worker, time.monotonic() - started, budget)
    _report(config, model)
    return model


def _report(config: ModelConfig, model: LoadedModel) -> None:
    log.info(
        "%s is ready after %.1f s: %s on %s, %d threads, %.0f tokens/s, token budget %d, pid %d",
        config.name,
        model.start_s,
        model.dtype,
        model.device,
        torch.get_num_threads(),
        model.worker.tokens_per_s,
        model.budget,
        os.getpid(),
    )
