"""One call's texts inside a batcher, and the answer that collects their vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import numpy as np

from deployments.core.batch import AnyVectors, Encoded, TokenBatch, placed
from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane
from deployments.core.sparse import SparseVectors

log = logging.getLogger(__name__)


@dataclass(eq=False)
class PendingCall:
    """Owns a call's rows; resolves ``future`` once each row has a vector or an error.

    A trial has ``begin``: it is called with each row before its forward pass and with None after it.
    """

    batch: TokenBatch
    lane: Lane
    dimension: int
    arrived: float
    begin: Callable[[int | None], None] | None = None
    future: Future[Encoded] = field(default_factory=Future)
    errors: dict[int, EmbedfleetError] = field(default_factory=dict)
    started: float | None = None
    computed_s: float = 0.0

    def __post_init__(self) -> None:
        self._vectors = np.zeros((len(self.batch), self.dimension), np.float32)
        self._sparse: dict[int, SparseVectors] = {}
        self._open = len(self.batch)

    @property
    def gone(self) -> bool:
        """Whether the call was cancelled or is already answered."""
        return self.future.done()

    def start(self, now: float) -> None:
        """Records when a forward pass with some of the texts began; the earliest counts."""
        self.started = now if self.started is None else min(now, self.started)

    def settle(self, row: int, outcome: AnyVectors | EmbedfleetError) -> None:
        """Sets one text's vector ``(dimension,)``, a single sparse one, or its error."""
        if isinstance(outcome, EmbedfleetError):
            self.errors[row] = outcome
        elif isinstance(outcome, SparseVectors):
            self._sparse[row] = outcome
        else:
            self._vectors[row] = outcome
        self._open -= 1

    def finish_if_settled(self, now: float) -> None:
        """Answers the call if each text has a vector or an error."""
        if self._open:
            return
        self.start(now)
        assert self.started is not None
        queued = self.started - self.arrived
        self._answer(Encoded(self._collected(), queued, self.computed_s, self.errors))

    def _collected(self) -> AnyVectors:
        if self._sparse:
            rows = [([row], vector) for row, vector in self._sparse.items()]
            return placed(rows, len(self.batch))
        # a sparse model's zeros would be many
        all_failed = len(self.errors) == len(self.batch) > 0
        return self._vectors[:, :0] if all_failed else self._vectors

    def fail(self, error: EmbedfleetError) -> None:
        """Fails the whole call; its remaining texts are then dropped from their lane."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            log.debug("the caller is gone: %s", error)

    def _answer(self, encoded: Encoded) -> None:
        try:
            self.future.set_result(encoded)
        except InvalidStateError:
            log.debug("the caller left before its answer was ready")
