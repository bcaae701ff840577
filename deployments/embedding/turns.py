"""Which pass begins next, and whether another one may run beside it.

The texts of trials may kill the process: each runs alone, so that nothing else is blamed or lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from deployments.embedding.job import Job
from deployments.embedding.lanes import Drop, Lane, LaneLimits, Lanes, MicroBatch, Waiting


class Turns:
    """Lanes and trials, which take turns. Not thread-safe; the clock is passed in."""

    def __init__(self, limits: LaneLimits) -> None:
        self.lanes: Lanes[Job] = Lanes(limits)
        self._limits = limits
        self._trials: deque[Waiting[Job]] = deque()
        self._trial_was_last = False
        self._running: dict[int, tuple[float, MicroBatch[Job]]] = {}

    def try_alone(self, job: Job, now: float, deadline: float) -> None:
        """Queues a call's texts for passes of their own."""
        counts = enumerate(job.batch.lengths.tolist())
        self._trials.extend(Waiting(job, r, n, job.lane, now, deadline) for r, n in counts)

    def may_begin(self) -> bool:
        """Whether `take` has something that may run now."""
        if not self._running:
            return bool(self.lanes or self._trials)
        is_on_trial = self._trial_was_last  # then that is what runs
        if is_on_trial or self._trial_is_next or not self._waiting:
            return False
        # then further work waits for it, unless there is as much of it
        ends_soon = any(map(self._is_worth_waiting_for, self._passes))
        return not ends_soon or self._waiting >= self._limits.worth_a_pass

    def take(self, now: float) -> MicroBatch[Job]:
        """Returns what runs next, maybe nothing but dropped texts; it runs until it has `ended`."""
        self._trial_was_last = self._trial_is_next
        if self._trial_was_last:
            batch = self._trial(now)
        else:
            batch = self.lanes.take(now, self._share(), self._open_lanes)
        self._running[id(batch)] = now, batch
        return batch

    def ended(self, batch: MicroBatch[Job]) -> None:
        """This pass has ended; it may be said more than once."""
        self._running.pop(id(batch), None)

    @property
    def running(self) -> list[float]:
        """When each pass that runs now was taken."""
        return [since for since, _ in self._running.values()]

    def clear(self) -> Iterator[Job]:
        """Empties lanes and trials; yields whose texts they were, some more than once."""
        while self.lanes:
            yield from (text.owner for text in self.lanes.take(float("-inf")).all_texts)
        while self._trials:
            yield self._trials.popleft().owner

    def _trial(self, now: float) -> MicroBatch[Job]:
        text = self._trials.popleft()
        if text.owner.gone or text.deadline <= now:
            return MicroBatch([], [(text, Drop.GONE if text.owner.gone else Drop.EXPIRED)])
        return MicroBatch([text], [], self._limits.pads)

    def _is_worth_waiting_for(self, batch: MicroBatch[Job]) -> bool:
        has_own_stream = self._limits.reserved and batch.is_offline and self._is_online_next
        return batch.cost < self._limits.worth_a_pass and not has_own_stream

    def _share(self) -> int:
        """The most that a pass takes, so that the other idle streams get theirs."""
        idle = self._limits.streams - len(self._running)
        if not self._is_online_next:
            idle = min(idle, self._limits.streams_of(Lane.OFFLINE) - self._offline_passes)
        if idle <= 1:
            return self._limits.token_budget
        return max(self._limits.worth_a_pass, -(-self._waiting // idle))

    @property
    def _waiting(self) -> int:
        return sum(map(self.lanes.waiting_tokens, self._open_lanes))

    @property
    def _open_lanes(self) -> Sequence[Lane]:
        """Offline texts leave the last stream to online ones, where that is reserved."""
        is_full = self._offline_passes >= self._limits.streams_of(Lane.OFFLINE)
        return (Lane.ONLINE,) if is_full else tuple(Lane)

    @property
    def _is_online_next(self) -> bool:
        return self.lanes.waiting_tokens(Lane.ONLINE) > 0

    @property
    def _offline_passes(self) -> int:
        return sum(batch.is_offline for batch in self._passes)

    @property
    def _passes(self) -> Iterator[MicroBatch[Job]]:
        return (batch for _, batch in self._running.values())

    @property
    def _trial_is_next(self) -> bool:
        return bool(self._trials) and not (self.lanes and self._trial_was_last)
