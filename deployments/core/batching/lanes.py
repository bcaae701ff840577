"""Texts wait in two lanes and leave in micro-batches: which texts share the next forward pass.

The unit of queueing is one text with its token count. Within a lane, the calls of a tenant leave in the
order in which they are due, so that a short call does not wait for a long one; tenants share the lane
fairly (`fair_queue`). Online texts go first and offline texts fill the rest of the pass. Offline texts
never starve: an ageing guard lets them go first now and then, or they have streams of their own at a
lower priority. A large online call, such as a rerank of 1,000 documents, must not slow short ones down:
its passes are as small as those of offline texts. Nothing here blocks, and the clock is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from deployments.core.batching.fair_queue import FairQueue
from deployments.core.batching.packing import around_oldest, first_fit
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import SHARE_OF_ANYONE, Share

_ONLINE_MEMORY_S = 1.0  # another online text is expected within this time of the last one
_STRETCH = 16  # a call is due after so many times the seconds that it takes alone
_RESERVE = 2  # but so many times those seconds before its deadline
_PATIENCE = 0.5  # or after this part of the time to its deadline, if that is later


class DropReason(StrEnum):
    """Why a text left its lane without a forward pass."""

    GONE = "caller_gone"
    EXPIRED = "deadline"


class Owner(Protocol):
    """Receives a text's vector; texts whose owner is gone are dropped."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the vectors any longer."""
        ...


OwnerT = TypeVar("OwnerT", bound=Owner)


@dataclass(frozen=True, eq=False, slots=True)
class QueuedText(Generic[OwnerT]):
    """One text in a lane: row ``row`` of its owner's call. Times are seconds of one clock.

    ``due`` orders the texts of one tenant in a lane: the earliest goes first. ``is_large`` marks the
    texts of a large call.
    """

    owner: OwnerT
    row: int
    tokens: int
    lane: Lane
    arrived: float
    deadline: float
    due: float = 0.0
    tenant: str = SHARE_OF_ANYONE.name
    is_large: bool = False


@dataclass(frozen=True)
class MicroBatch(Generic[OwnerT]):
    """The texts of one forward pass, and those dropped while choosing them.

    ``leaves_some`` is true if other texts still wait in the same lanes.
    """

    texts: list[QueuedText[OwnerT]]
    dropped: list[tuple[QueuedText[OwnerT], DropReason]]
    pads: bool = True
    leaves_some: bool = False

    @property
    def all_texts(self) -> list[QueuedText[OwnerT]]:
        """The texts of the pass and the dropped ones."""
        return [*self.texts, *(text for text, _ in self.dropped)]

    @property
    def tokens(self) -> int:
        """Tokens in the pass, without padding."""
        return sum(text.tokens for text in self.texts)

    @property
    def cost(self) -> int:
        """Tokens that the engine computes: longest × rows if it pads, else `tokens`."""
        if not self.pads:
            return self.tokens
        return max((text.tokens for text in self.texts), default=0) * len(self.texts)


@dataclass(frozen=True)
class BatchLimits:
    """How micro-batches are formed.

    - ``token_budget``: the highest cost of a pass (see `MicroBatch.cost`); a single text may exceed it.
    - ``shared_budget``: the highest cost of a pass that both lanes share, and of an offline pass within
      a second of an online text, since the next online text would wait for that pass. The same holds for
      large online calls beside small ones.
    - ``large_call``: a call of more tokens is large. Small calls that are merged into one have fewer.
    - ``offline_patience_s``: how long offline texts let online ones go first.
    - ``window``: how many texts of a lane, in the order in which they are due, a pass is chosen from.
    - ``pads``: whether the engine pads texts to the longest of the pass.
    - ``streams``: how many passes may run at once.
    - ``worth_a_pass``: another pass begins beside running ones once this many tokens wait.
    - ``preempt``: each lane has ``streams`` of its own and no pass is shared; the operating system takes
      cores from offline passes and leaves them a tenth.
    """

    token_budget: int
    shared_budget: int
    offline_patience_s: float = 2.0
    large_call: int = 4_096
    window: int = 512
    pads: bool = True
    streams: int = 1
    worth_a_pass: int = 1
    preempt: bool = False

    def __post_init__(self) -> None:
        if self.shared_budget > self.token_budget:
            raise ValueError(
                f"shared_budget ({self.shared_budget}) must not exceed token_budget ({self.token_budget})"
            )

    @property
    def sharing(self) -> tuple[tuple[Lane, ...], ...]:
        """The lanes in groups whose texts may share a stream, the most urgent group first."""
        return tuple((lane,) for lane in Lane) if self.preempt else (tuple(Lane),)


@dataclass
class Lanes(Generic[OwnerT]):
    """Two queues of texts, and the choice of the next micro-batch. Not thread-safe.

    ``tokens_per_s`` is the measured speed, by which long calls are due later; without it calls leave in
    order of arrival.
    """

    limits: BatchLimits
    tokens_per_s: float = float("inf")
    _queues: dict[Lane, FairQueue[QueuedText[OwnerT]]] = field(
        default_factory=lambda: {lane: FairQueue() for lane in Lane}
    )
    _offline_served: float = float("-inf")
    _online_seen: float = float("-inf")
    _small_seen: float = float("-inf")  # the same of calls that are not large
    # passes may be slower than the patience: offline texts go first at most once in a row
    _online_owed: bool = False

    def waiting_texts(self, lane: Lane) -> int:
        """Returns how many texts wait in this lane."""
        return len(self._queues[lane])

    def waiting_tokens(self, lane: Lane) -> int:
        """Returns how many tokens, without padding, wait in this lane."""
        return self._queues[lane].tokens

    def __bool__(self) -> bool:
        return any(self._queues.values())

    def tokens_before(
        self,
        tokens: int,
        lane: Lane,
        now: float,
        deadline: float,
        *,
        share: Share = SHARE_OF_ANYONE,
    ) -> int:
        """Returns how many waiting tokens would leave before a tenant's call of so many tokens."""
        due = self._due(tokens, now, deadline)
        return self._queues[lane].tokens_before(tokens, due, share)

    def put(  # noqa: PLR0913
        self,
        owner: OwnerT,
        tokens: Sequence[int],
        lane: Lane,
        now: float,
        deadline: float,
        *,
        share: Share = SHARE_OF_ANYONE,
    ) -> None:
        """Queues an owner's texts, given by their token counts, in order."""
        if lane is Lane.OFFLINE and not self._queues[lane]:
            self._offline_served = now  # the patience starts when the lane stops being empty
        total, name = sum(tokens), share.name
        is_large = total > self.limits.large_call
        if lane is Lane.ONLINE:
            self._online_seen = now
            self._small_seen = self._small_seen if is_large else now
        due = self._due(total, now, deadline)
        texts = [
            QueuedText(owner, row, count, lane, now, deadline, due, name, is_large)
            for row, count in enumerate(tokens)
        ]
        self._queues[lane].put(texts, total, share)

    def take(
        self, now: float, max_cost: int | None = None, lanes: Sequence[Lane] = tuple(Lane)
    ) -> MicroBatch[OwnerT]:
        """Returns the next micro-batch from ``lanes``; it is empty only if no live text waits there.

        ``max_cost`` lowers the token budget for this pass.
        """
        dropped: list[tuple[QueuedText[OwnerT], DropReason]] = []
        candidates = {lane: self._window(lane, now, dropped, lane in lanes) for lane in Lane}
        budget = min(self.limits.token_budget, max_cost or self.limits.token_budget)
        chosen = self._choose(candidates, now, budget)
        taken = set(map(id, chosen))
        for lane, texts in candidates.items():
            if texts:
                self._queues[lane].put_back([t for t in texts if id(t) not in taken])
                self._queues[lane].took([t for t in texts if id(t) in taken])
        online, offline = candidates[Lane.ONLINE], candidates[Lane.OFFLINE]
        if offline and offline[0] in chosen:  # topping up with short texts does not help the oldest
            self._offline_served = now
        self._online_owed = bool(online) and all(text.lane is Lane.OFFLINE for text in chosen)
        leaves_some = any(self._queues[lane] for lane in lanes)
        return MicroBatch(chosen, dropped, self.limits.pads, leaves_some)

    def _choose(
        self, candidates: dict[Lane, list[QueuedText[OwnerT]]], now: float, budget: int
    ) -> list[QueuedText[OwnerT]]:
        online, offline = candidates[Lane.ONLINE], candidates[Lane.OFFLINE]
        impatient = now - self._offline_served > self.limits.offline_patience_s
        if offline and ((impatient and not self._online_owed) or not online):
            return self._fill(offline, min(budget, self._offline_budget(now)))
        chosen = self._choose_online(online, now, budget)
        return first_fit(chosen, offline, self.limits.shared_budget, self.limits.pads)

    def _choose_online(
        self, texts: list[QueuedText[OwnerT]], now: float, budget: int
    ) -> list[QueuedText[OwnerT]]:
        low_budget = min(budget, self.limits.shared_budget)
        large = [text for text in texts if text.is_large]
        if not large:
            return self._fill(texts, budget)
        if texts[0].is_large:
            small_are_active = now - self._small_seen <= _ONLINE_MEMORY_S
            return self._fill(texts, low_budget if small_are_active else budget)
        small = [text for text in texts if not text.is_large]
        return first_fit(self._fill(small, budget), large, low_budget, self.limits.pads)

    def _fill(self, texts: list[QueuedText[OwnerT]], budget: int) -> list[QueuedText[OwnerT]]:
        if self.limits.pads:
            return around_oldest(texts, budget)
        return first_fit(texts[:1], texts[1:], budget, pads=False)

    def _offline_budget(self, now: float) -> int:
        online_is_active = now - self._online_seen <= _ONLINE_MEMORY_S
        waits_for_it = online_is_active and not self.limits.preempt
        return self.limits.shared_budget if waits_for_it else self.limits.token_budget

    def _due(self, tokens: int, arrived: float, deadline: float) -> float:
        """Returns when a call is due.

        The time to the deadline bounds it, so nothing that arrives later keeps a text waiting for ever.
        """
        alone_s, patience_s = tokens / self.tokens_per_s, max(0.0, deadline - arrived)
        latest_s = max(_PATIENCE * patience_s, patience_s - _RESERVE * alone_s)
        return arrived + min(_STRETCH * alone_s, latest_s)

    def _window(
        self,
        lane: Lane,
        now: float,
        dropped: list[tuple[QueuedText[OwnerT], DropReason]],
        is_open: bool,
    ) -> list[QueuedText[OwnerT]]:
        """Takes the first live texts out of an open lane; the others go to ``dropped``."""
        if not is_open:
            return []
        alive, dead = self._queues[lane].window(now, self.limits.window)
        for text in dead:
            dropped.append((text, DropReason.GONE if text.owner.gone else DropReason.EXPIRED))
        return alive
