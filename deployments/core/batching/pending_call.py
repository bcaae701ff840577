"""One call's texts while they are under way in a batcher, and the answer they add up to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import numpy as np

from deployments.core.batch import Encoded, TokenBatch, Vectors
from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane

log = logging.getLogger(__name__)


@dataclass(eq=False)
class PendingCall:
    """Owns a call's rows; answers ``future`` once each row has a vector or an error.

    Where texts are tried one by one, ``begin`` is told each row before its forward pass, and None
    after it.
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
        self._open = len(self.batch)

    @property
    def gone(self) -> bool:
        """Whether the call was cancelled or already has its answer."""
        return self.future.done()

    def start(self, now: float) -> None:
        """Some of the texts were in a forward pass that began then; the first one counts."""
        self.started = now if self.started is None else min(now, self.started)

    def settle(self, row: int, outcome: Vectors | EmbedfleetError) -> None:
        """Gives one text its vector ``(dimension,)``, or the error that it alone gets."""
        if isinstance(outcome, EmbedfleetError):
            self.errors[row] = outcome
        else:
            self._vectors[row] = outcome
        self._open -= 1

    def finish_if_settled(self, now: float) -> None:
        """Answers the call once no text is open."""
        if self._open:
            return
        self.start(now)
        assert self.started is not None
        queued = self.started - self.arrived
        self._answer(Encoded(self._vectors, queued, self.computed_s, self.errors))

    def fail(self, error: EmbedfleetError) -> None:
        """Gives the whole call one error; its other texts are then dropped unseen."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            log.debug("the caller has gone: %s", error)

    def _answer(self, encoded: Encoded) -> None:
        try:
            self.future.set_result(encoded)
        except InvalidStateError:
            log.debug("the caller has gone before its answer was ready")
