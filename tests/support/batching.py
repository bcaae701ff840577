"""A batcher over the fake engine, and how tests feed it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from deployments.core.batch import Encoded, TokenBatch
from deployments.core.batching.batcher import Batcher
from deployments.core.batching.lanes import BatchLimits, DropReason
from deployments.core.batching.observing import Observer, Pass
from deployments.core.errors import EmbedfleetError
from deployments.core.lane import Lane
from tests.support.fake_engine import FakeEngine, vector_of

PATIENCE_S = 10.0  # how long a test waits for what should come at once


@dataclass
class Watcher(Observer):
    """Keeps what it saw."""

    passes: list[list[int]] = field(default_factory=list)
    drops: list[tuple[Lane, DropReason]] = field(default_factory=list)
    refusals: list[tuple[Lane, int]] = field(default_factory=list)
    left: dict[Lane, tuple[int, int]] = field(default_factory=dict)
    on_pass: Callable[[], None] = lambda: None

    def ran(self, done: Pass) -> None:
        """Keeps the lengths of a pass."""
        self.passes.append(list(done.lengths))
        self.on_pass()

    def dropped(self, lane: Lane, reason: DropReason) -> None:
        """Keeps a drop."""
        self.drops.append((lane, reason))

    def refused(self, lane: Lane, texts: int) -> None:
        """Keeps a refusal."""
        self.refusals.append((lane, texts))

    def waiting(self, backlog: Mapping[Lane, tuple[int, int]]) -> None:
        """Keeps the latest backlog."""
        self.left.update(backlog)


@contextmanager
def working(
    engine: FakeEngine,
    budget: int = 16,
    max_wait_s: float = 1e6,
    observer: Watcher | None = None,
    tokens_per_s: float = 100.0,
    streams: int = 1,
    preempt: bool = False,
) -> Iterator[Batcher]:
    """Yields a running batcher; at the end it is stopped, whatever its engine does."""
    waits = dict.fromkeys(Lane, max_wait_s)
    worth = int(0.4 * budget)
    limits = BatchLimits(
        budget,
        budget,
        offline_patience_s=1e9,
        streams=streams,
        worth_a_pass=worth,
        preempt=preempt,
    )
    batcher = Batcher(engine, limits, waits, tokens_per_s, observer)
    try:
        yield batcher
    finally:
        engine.release.set()
        batcher.stop()
        assert not batcher.alive


def submit(
    batcher: Batcher, *texts: list[int], lane: Lane = Lane.ONLINE, timeout_s: float = 1e6
) -> Future[Encoded]:
    """Queues one call."""
    return batcher.submit(TokenBatch.from_lists(texts), lane, timeout_s)


def hold(batcher: Batcher, engine: FakeEngine) -> Future[Encoded]:
    """Submits a call whose pass is held in the engine, so that what comes next must wait."""
    engine.held = True
    future = submit(batcher, [1])
    assert engine.entered.wait(PATIENCE_S)
    engine.held = False
    return future


def until(happened: Callable[[], bool]) -> None:
    """Waits for something that another thread does soon."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def check_answer(future: Future[Encoded], *texts: list[int]) -> None:
    """Asserts that a call has the vectors of its texts, in order."""
    encoded = future.result(PATIENCE_S)
    assert encoded.errors == {}
    np.testing.assert_array_equal(encoded.vectors, [vector_of(text) for text in texts])


def error_of(future: Future[Encoded], row: int = 0) -> EmbedfleetError:
    """Returns the error of one text; it must be the only one of its call."""
    errors = future.result(PATIENCE_S).errors
    assert set(errors) == {row}
    return errors[row]
