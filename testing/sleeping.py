"""The service with an engine that sleeps instead of computing, so its speed does not depend on the cores.

It serves benchmarks of scaling; its vectors mean nothing. Everything else is the real service,
calibration included.

    import_path: testing.sleeping:build
"""

# no postponed annotations here: Serve reads the type of `args` from the signature

import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from ray.serve import Application

from deployments.app import graph
from deployments.config.schema import AppArgs, Limits, ModelConfig
from deployments.core.batch import TokenBatch, Vectors
from deployments.core.models.spec import ModelSpec
from deployments.replica.deployment import Encoder
from deployments.replica.loaded_model import LoadedModel

TOKENS_PER_S = 4_000.0


class SleepingEngine:
    """Sleeps for the time that a pass's tokens take."""

    pads = False
    vocabulary = 1_000_000
    device = torch.device("cpu")
    dtype = torch.float32
    rounded = int

    def __init__(
        self, spec: ModelSpec, model_dir: Path, device: str, dtype: str, threads: int
    ) -> None:
        self.dimension = spec.dimension

    def slow_at_first(self, most: int) -> list[int]:
        """Returns none."""
        return []

    def lend_threads(self, most: int, max_tokens: int) -> bool:
        """Returns False: it does not compute."""
        return False

    def free_memory(self) -> None:
        """Does nothing: there is no allocator."""

    def forward(self, batch: TokenBatch) -> Vectors:
        """Returns ones ``(texts, dimension)``."""
        time.sleep(batch.tokens / TOKENS_PER_S)
        return np.ones((len(batch), self.dimension), np.float32)


class SleepingEncoder(Encoder):
    """The real replica with that engine."""

    def load(self, config: ModelConfig, limits: Limits) -> LoadedModel:
        """Returns the model, with that engine."""
        with patch("deployments.replica.loading.TorchEngine", SleepingEngine):
            return super().load(config, limits)


def build(args: AppArgs) -> Application:
    """Returns the real graph, with that engine in its encoders."""
    return graph(args, SleepingEncoder)
