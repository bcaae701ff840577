"""Which pass begins next, and whether another one may run beside it.

The texts of trials may kill the process: each runs alone, so that nothing else is blamed or lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from deployments.embedding.job import Job
from deployments.embedding.lanes import Drop, Lane, LaneLimits, Lanes, MicroBatch, Waiting

# of the token budget: with less work than that in the lanes, no second pass begins beside the first
_WORTH_A_PASS = 0.4


class Turns:
    """Lanes and trials, which take turns. Not thread-safe; the clock is passed in."""

    def __init__(self, limits: LaneLimits) -> None:
        self.lanes: Lanes[Job] = Lanes(limits)
        self._limits = limits
        self._trials: deque[Waiting[Job]] = deque()
        self._trial_was_last = False
        self._running = 0
        self._on_trial = False

    def try_alone(self, job: Job, now: float, deadline: float) -> None:
        """Queues a call's texts for passes of their own."""
        counts = enumerate(job.batch.lengths.tolist())
        self._trials.extend(Waiting(job, r, n, job.lane, now, deadline) for r, n in counts)

    def may_begin(self) -> bool:
        """Whether `take` has something that may run now."""
        if not self._running:
            return bool(self.lanes or self._trials)
        if self._on_trial or self._trial_is_next:
            return False
        waiting = sum(self.lanes.waiting_tokens(lane) for lane in Lane)
        return waiting >= _WORTH_A_PASS * self._limits.token_budget

    def take(self, now: float) -> MicroBatch[Job]:
        """Returns what runs next, which may be nothing but dropped texts; `ended` says when it has."""
        self._running += 1
        self._trial_was_last = self._on_trial = self._trial_is_next
        if not self._on_trial:
            return self.lanes.take(now)
        text = self._trials.popleft()
        if text.owner.gone or text.deadline <= now:
            return MicroBatch([], [(text, Drop.GONE if text.owner.gone else Drop.EXPIRED)])
        return MicroBatch([text], [], self._limits.pads)

    def ended(self) -> None:
        """One of the passes has ended."""
        self._running -= 1
        self._on_trial = False

    def clear(self) -> Iterator[Job]:
        """Empties lanes and trials; yields whose texts they were, some more than once."""
        while self.lanes:
            yield from (text.owner for text in self.lanes.take(float("-inf")).all_texts)
        while self._trials:
            yield self._trials.popleft().owner

    @property
    def _trial_is_next(self) -> bool:
        return bool(self._trials) and not (self.lanes and self._trial_was_last)
