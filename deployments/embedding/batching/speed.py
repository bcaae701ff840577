"""How fast a replica's engine is while it works, told by its passes."""

from __future__ import annotations

from deployments.embedding.batching.job import Job
from deployments.embedding.batching.lanes import LaneLimits, MicroBatch

_TELLING_SHARE = 0.25
_NEWEST = 0.2


class Speed:
    """Follows the tokens per second of all streams together. Not thread-safe."""

    def __init__(self, tokens_per_s: float, limits: LaneLimits) -> None:
        self.tokens_per_s = tokens_per_s
        self._limits = limits

    def learn(self, batch: MicroBatch[Job], seconds: float, running: int) -> None:
        """Takes in the seconds of a pass, one of so many ``running``.

        A small one tells what a pass costs, not how fast the engine is when there is enough to do.
        """
        streams = self._limits.streams
        share = min(1.0, batch.cost / self._limits.token_budget)
        if share >= _TELLING_SHARE or batch.leaves_some:
            measured = streams * batch.tokens / max(seconds, 1e-6)
            weight = _NEWEST * share * min(1.0, running / streams)
            self.tokens_per_s += weight * (measured - self.tokens_per_s)
