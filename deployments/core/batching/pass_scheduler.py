"""Which forward pass begins next, and whether it may run beside others.

A trial's text may kill the process. It runs alone, so that no other text is blamed or lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deployments.core.batching.lanes import BatchLimits, DropReason, Lanes, MicroBatch, QueuedText
from deployments.core.batching.pending_call import PendingCall
from deployments.core.lane import Lane


@dataclass(frozen=True)
class _Running:
    """A running pass: when it was taken (seconds), from which lanes, and whether it is a trial."""

    since: float
    lanes: Sequence[Lane]
    batch: MicroBatch[PendingCall]
    is_trial: bool


class PassScheduler:
    """Alternates between lanes and trials. Not thread-safe; the clock is passed in.

    The ``lanes`` that callers pass are one group of `BatchLimits.sharing`.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.lanes: Lanes[PendingCall] = Lanes(limits)
        self._limits = limits
        self._trials: deque[QueuedText[PendingCall]] = deque()
        self._owed: set[Sequence[Lane]] = set()  # lanes that get a pass before the next trial
        self._running: dict[int, _Running] = {}

    def try_alone(self, call: PendingCall, now: float, deadline: float) -> None:
        """Queues a call's texts for a trial each: a pass with no other text."""
        counts = enumerate(call.batch.lengths.tolist())
        self._trials.extend(QueuedText(call, r, n, call.lane, now, deadline) for r, n in counts)

    def may_begin(self, lanes: Sequence[Lane] = tuple(Lane)) -> bool:
        """Whether `take` would return something for these lanes that may run now."""
        if self._trial_is_next:
            return not self._running and Lane.ONLINE in lanes
        is_on_trial = any(running.is_trial for running in self._running.values())
        if is_on_trial or not self._has_texts(lanes):
            return False
        # a short pass is waited for, unless enough tokens wait for a pass of their own
        ends_soon = any(batch.cost < self._limits.worth_a_pass for batch in self._passes(lanes))
        return not ends_soon or self._waiting(lanes) >= self._limits.worth_a_pass

    @property
    def has_work(self) -> bool:
        """Whether any text waits for a pass."""
        return bool(self._trials or self.lanes)

    def take(self, now: float, lanes: Sequence[Lane] = tuple(Lane)) -> MicroBatch[PendingCall]:
        """Returns the next pass, maybe only with dropped texts; it counts as running until `ended`."""
        if is_trial := self._trial_is_next:
            self._owed = set(self._limits.sharing)
            batch = self._trial(now)
        else:
            self._owed.discard(lanes)
            batch = self.lanes.take(now, self._share(lanes), lanes)
        self._running[id(batch)] = _Running(now, lanes, batch, is_trial)
        return batch

    def ended(self, batch: MicroBatch[PendingCall]) -> None:
        """Marks a pass as ended; calling it again does nothing."""
        self._running.pop(id(batch), None)

    @property
    def running(self) -> list[float]:
        """When each running pass was taken, in seconds of the caller's clock."""
        return [running.since for running in self._running.values()]

    def clear(self) -> Iterator[PendingCall]:
        """Empties lanes and trials; yields the calls of their texts, some more than once."""
        while self.lanes:
            yield from (text.owner for text in self.lanes.take(float("-inf")).all_texts)
        while self._trials:
            yield self._trials.popleft().owner

    def _trial(self, now: float) -> MicroBatch[PendingCall]:
        text = self._trials.popleft()
        if text.owner.gone or text.deadline <= now:
            return MicroBatch(
                [], [(text, DropReason.GONE if text.owner.gone else DropReason.EXPIRED)]
            )
        return MicroBatch([text], [], self._limits.pads)

    def _share(self, lanes: Sequence[Lane]) -> int:
        """The highest cost of the next pass, so that the other idle streams get their share."""
        idle = self._limits.streams - len(self._passes(lanes))
        if idle <= 1:
            return self._limits.token_budget
        return max(self._limits.worth_a_pass, -(-self._waiting(lanes) // idle))

    def _has_texts(self, lanes: Sequence[Lane]) -> bool:
        return any(map(self.lanes.waiting_texts, lanes))

    def _waiting(self, lanes: Sequence[Lane]) -> int:
        return sum(map(self.lanes.waiting_tokens, lanes))

    def _passes(self, lanes: Sequence[Lane]) -> list[MicroBatch[PendingCall]]:
        return [running.batch for running in self._running.values() if running.lanes == lanes]

    @property
    def _trial_is_next(self) -> bool:
        return bool(self._trials) and not any(map(self._has_texts, self._owed))
