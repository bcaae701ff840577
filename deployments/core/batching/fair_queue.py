"""The texts that wait in one lane, shared fairly by the tenants they belong to.

The texts of one tenant leave in the order in which they are due. Tenants that wait at the same time get
tokens in proportion to their weights, whatever they have queued: start-time fair queueing (Goyal, Vin and
Cheng, 1996). Each has a count of the tokens that it has got, divided by its weight, and the one with the
lowest count goes first. A tenant that comes back starts from the lowest count of those that wait, so
nobody saves up for later. Where one tenant waits alone, nothing is counted.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from deployments.core.tenants.tenant import Share

if TYPE_CHECKING:
    from deployments.core.batching.lanes import QueuedText

TextT = TypeVar("TextT", bound="QueuedText[Any]")
_due = attrgetter("due")


@dataclass(eq=False)
class _Flow(Generic[TextT]):
    """One tenant's texts, sorted by `due`, and the count of what it has got."""

    weight: float
    got: float
    texts: list[TextT] = field(default_factory=list)
    tokens: int = 0


class FairQueue(Generic[TextT]):
    """Not thread-safe; the clock is passed in."""

    def __init__(self) -> None:
        self.tokens = 0
        self._flows: dict[str, _Flow[TextT]] = {}
        self._is_shared = False  # whether several tenants waited when the last window was taken

    def __len__(self) -> int:
        return sum([len(flow.texts) for flow in self._flows.values()])

    def __bool__(self) -> bool:
        return any(flow.texts for flow in self._flows.values())

    def __iter__(self) -> Iterator[TextT]:
        return chain.from_iterable(flow.texts for flow in self._flows.values())

    def put(self, texts: Sequence[TextT], tokens: int, share: Share) -> None:
        """Queues the texts of one call, which are due together and have so many tokens in all."""
        if not texts:
            return
        flow = self._flow(share)
        place = bisect_right(flow.texts, texts[0].due, key=_due)
        flow.texts[place:place] = texts
        flow.tokens += tokens
        self.tokens += tokens

    def tokens_before(self, tokens: int, due: float, share: Share) -> int:
        """Returns how many waiting tokens would leave before the end of a call of so many tokens."""
        flow = self._flows.get(share.name)
        own = _tokens_due_before(flow, due) if flow else 0
        if flow and len(self._flows) == 1:
            return own
        got_then = self._start(flow) + (own + tokens) / share.weight
        others = (
            min(other.tokens, max(0, int((got_then - other.got) * other.weight)))
            for other in self._waiting()
            if other is not flow
        )
        return own + sum(others)

    def window(self, now: float, size: int) -> tuple[list[TextT], list[TextT]]:
        """Takes out up to ``size`` live texts in the order in which they should leave, and dead ones.

        A text is dead if its caller has gone or its deadline has passed. Those that do not leave after
        all have to be put back.
        """
        flows = self._waiting()
        self._is_shared = len(flows) > 1
        if self._is_shared:
            alive, dead = _in_turns(flows, now, size)
        else:
            alive, dead = _in_order(flows[0].texts, now, size) if flows else ([], [])
        self._count_out(dead)
        return alive, dead

    def put_back(self, texts: Sequence[TextT]) -> None:
        """Puts texts of the last window back where they were, in its order."""
        if texts and not self._is_shared:
            self._flows[texts[0].tenant].texts[:0] = texts
        elif texts:
            for name, flow in self._flows.items():
                flow.texts[:0] = [text for text in texts if text.tenant == name]

    def took(self, texts: Sequence[TextT]) -> None:
        """These texts of the last window leave."""
        self._count_out(texts)
        if self._is_shared:
            for text in texts:
                flow = self._flows[text.tenant]
                flow.got += text.tokens / flow.weight

    def _count_out(self, texts: Sequence[TextT]) -> None:
        if texts and not self._is_shared:
            tokens = sum([text.tokens for text in texts])
            self._flows[texts[0].tenant].tokens -= tokens
            self.tokens -= tokens
            return
        for text in texts:
            self._flows[text.tenant].tokens -= text.tokens
            self.tokens -= text.tokens

    def _waiting(self) -> list[_Flow[TextT]]:
        return [flow for flow in self._flows.values() if flow.texts]

    def _flow(self, share: Share) -> _Flow[TextT]:
        flow = self._flows.get(share.name)
        if flow is not None and (flow.texts or len(self._flows) == 1):
            flow.weight = share.weight
            return flow
        start = self._start(flow)
        if not self:  # who has got how much counts no longer
            self._flows.clear()
        flow = self._flows[share.name] = _Flow(share.weight, start)
        return flow

    def _start(self, flow: _Flow[TextT] | None) -> float:
        """Returns the count that a tenant's next text would start from."""
        if flow is not None and flow.texts:
            return flow.got
        lowest = min((other.got for other in self._waiting()), default=None)
        if lowest is None:
            return 0.0
        return lowest if flow is None else max(flow.got, lowest)


def _tokens_due_before(flow: _Flow[TextT], due: float) -> int:
    place = bisect_right(flow.texts, due, key=_due)
    if place > len(flow.texts) // 2:  # in a flood of like calls, hardly any text is due later
        return flow.tokens - sum(text.tokens for text in flow.texts[place:])
    return sum(text.tokens for text in flow.texts[:place])


def _in_order(texts: list[TextT], now: float, size: int) -> tuple[list[TextT], list[TextT]]:
    """Takes the first live texts out, and the dead ones before them."""
    alive, dead = list[TextT](), list[TextT]()
    seen = 0
    while seen < len(texts) and len(alive) < size:
        text = texts[seen]
        seen += 1
        (dead if text.owner.gone or text.deadline <= now else alive).append(text)
    del texts[:seen]
    return alive, dead


def _in_turns(
    flows: Sequence[_Flow[TextT]], now: float, size: int
) -> tuple[list[TextT], list[TextT]]:
    """As `_in_order`, always from the tenant that would have got the least by then."""
    alive, dead = list[TextT](), list[TextT]()
    # the number keeps flows with equal counts from being compared
    turns = [(flow.got, number, flow, 0) for number, flow in enumerate(flows)]
    heapify(turns)
    while turns and len(alive) < size:
        got, number, flow, seen = turns[0]
        while seen < len(flow.texts) and _is_dead(flow.texts[seen], now):
            dead.append(flow.texts[seen])
            seen += 1
        if seen == len(flow.texts):
            flow.texts.clear()
            heappop(turns)
            continue
        text = flow.texts[seen]
        alive.append(text)
        heapreplace(turns, (got + text.tokens / flow.weight, number, flow, seen + 1))
    for _, _, flow, seen in turns:
        del flow.texts[:seen]
    return alive, dead


def _is_dead(text: TextT, now: float) -> bool:
    return text.owner.gone or text.deadline <= now
