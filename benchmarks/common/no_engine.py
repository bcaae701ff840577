"""The service with an engine that computes nothing, so that only the path to it is left.

    import_path: benchmarks.common.no_engine:build

The replica of the model `BY_HANDLE` does not listen for lines, so its calls go by Serve's handle.
"""

# no postponed annotations here: Serve reads the type of `args` from the signature

import asyncio

import numpy as np
from ray.serve import Application

from deployments.app import graph
from deployments.config.schema import AppArgs
from deployments.core.batch import TokenBatch, Vectors
from testing.hashing import HashingEncoder, HashingEngine

BY_HANDLE = "by-handle"


class NoEngine(HashingEngine):
    """The `Engine` protocol: all vectors are ones."""

    def forward(self, batch: TokenBatch) -> Vectors:
        """Returns ``(texts, dimension)``."""
        return np.ones((len(batch), self.dimension), np.float32)


class NoEngineEncoder(HashingEncoder):
    """The real replica around that engine."""

    engine_class = NoEngine

    def _listen_soon(self) -> asyncio.Task[None] | None:
        return None if self._name == BY_HANDLE else super()._listen_soon()


def build(args: AppArgs) -> Application:
    """Returns the real graph; none of its replicas computes."""
    return graph(args, NoEngineEncoder)
