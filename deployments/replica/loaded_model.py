"""What a replica has once its model is loaded. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.core.batching.batcher import Batcher
from deployments.core.engine.cuda.pinning import Memory
from deployments.core.engine.interface import Engine
from deployments.core.models.spec import ModelSpec

if TYPE_CHECKING:
    from deployments.core.checking.verdict import Verdict


@dataclass(frozen=True)
class LoadedModel:
    """A model whose engine is running.

    ``device`` includes the product name of a GPU; ``dtype`` is the precision of the weights.
    ``start_s`` is how long loading took. ``gpu_ids`` are the GPUs that Ray assigned, ``memory`` is
    what the model takes of its GPU (None on a CPU). ``verdict`` says which path the model takes, and what
    it was compared with; None if it was not compared.
    """

    spec: ModelSpec
    engine: Engine
    batcher: Batcher
    device: str
    dtype: str
    start_s: float
    token_budget: int
    gpu_ids: tuple[str, ...] = ()
    memory: Memory | None = None
    verdict: Verdict | None = None

    @property
    def longest_pass_s(self) -> float:
        """Seconds that the largest forward pass takes beside others; it may be a single long text."""
        tokens = max(self.token_budget, self.spec.max_tokens)
        return self.batcher.streams * tokens / self.batcher.tokens_per_s
