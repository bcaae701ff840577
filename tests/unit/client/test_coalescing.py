"""Small requests that arrive together leave together, and each gets its own answer."""

from __future__ import annotations

import asyncio
import contextvars
import time

import numpy as np
import pytest

from deployments.client.call import Call
from deployments.client.coalescing import Coalescing
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import DeadlineExceeded, EmbedfleetError, ModelUnavailable, Overloaded
from deployments.core.lane import Lane
from deployments.core.tenants.tenant import Share

FAR = 1e9
BAD = 1_313


class Replica:
    """Answers a text by its first id, when it is let."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.cancelled = 0
        self.open = asyncio.Event()
        self.open.set()
        self.error: EmbedfleetError | None = None

    async def send(self, call: Call) -> Encoded:
        batch = call.batch
        self.calls.append(len(batch))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        firsts = [batch.text(row)[0] for row in range(len(batch))]
        wrong = {i: EmbedfleetError("bad") for i, first in enumerate(firsts) if first == BAD}
        return Encoded(np.float32(firsts)[:, None], 0.0, 0.0, wrong)


def text(first: int, tokens: int = 4) -> TokenBatch:
    return TokenBatch.from_lists([[first] * tokens])


def call_of(
    batch: TokenBatch, lane: Lane = Lane.ONLINE, deadline: float = FAR, space="space", **fields
):
    return Call(batch, lane, deadline, space, **fields)


async def ask(coalescer: Coalescing, first: int, tokens: int = 4, **fields) -> float:
    encoded = await coalescer.send(call_of(text(first, tokens), **fields))
    assert not encoded.errors, encoded.errors
    return float(encoded.vectors[0, 0])


async def test_what_arrives_together_is_one_call():
    replica = Replica()
    coalescer = Coalescing(replica)
    answers = await asyncio.gather(*(ask(coalescer, n) for n in range(10)))
    assert answers == list(range(10))
    assert replica.calls == [10]


async def test_a_call_is_bounded_in_texts_and_tokens():
    replica = Replica()
    coalescer = Coalescing(replica)
    await asyncio.gather(*(ask(coalescer, n) for n in range(100)))
    await asyncio.gather(*(ask(coalescer, n, tokens=1_000) for n in range(6)))
    assert replica.calls == [64, 36, 4, 2]


async def test_a_large_request_goes_alone():
    replica = Replica()
    coalescer = Coalescing(replica)
    many = TokenBatch.from_lists([[n] for n in range(9)])
    await asyncio.gather(coalescer.send(call_of(many)), ask(coalescer, 1))
    assert sorted(replica.calls) == [1, 9]


async def test_lanes_do_not_mix():
    replica = Replica()
    coalescer = Coalescing(replica)
    await asyncio.gather(*(ask(coalescer, 1, lane=lane) for lane in Lane))
    assert replica.calls == [1, 1]


async def test_token_ids_of_two_spaces_do_not_mix():
    replica = Replica()
    coalescer = Coalescing(replica)
    await asyncio.gather(*(ask(coalescer, 1, space=space) for space in ("old", "new")))
    assert replica.calls == [1, 1]


async def test_calls_of_two_tenants_do_not_mix():
    replica = Replica()
    coalescer = Coalescing(replica)
    await asyncio.gather(*(ask(coalescer, 1, share=Share(name)) for name in "ab"))
    assert replica.calls == [1, 1]


async def test_with_calls_under_way_requests_gather():
    replica = Replica()
    coalescer = Coalescing(replica)
    replica.open.clear()
    tasks = []
    for n in range(2):
        tasks.append(asyncio.create_task(ask(coalescer, n)))
        while len(replica.calls) <= n:
            await asyncio.sleep(0)
    tasks += [asyncio.create_task(ask(coalescer, n)) for n in range(2, 7)]
    replica.open.set()
    assert await asyncio.gather(*tasks) == list(range(7))
    assert replica.calls == [1, 1, 5]


async def test_an_error_row_is_its_own_requests_error():
    coalescer = Coalescing(Replica())
    answers = await asyncio.gather(
        *(ask(coalescer, n) for n in (12, BAD, 14)), return_exceptions=True
    )
    assert answers[0] == 12
    assert isinstance(answers[1], AssertionError)
    assert answers[2] == 14


async def test_a_refused_call_refuses_each_of_its_requests():
    replica = Replica()
    replica.error = Overloaded("full", retry_after_s=3.0)
    coalescer = Coalescing(replica)
    answers = await asyncio.gather(*(ask(coalescer, n) for n in range(3)), return_exceptions=True)
    assert [a.retry_after_s for a in answers] == [3.0] * 3


@pytest.mark.parametrize(("leaving", "cancelled"), [(2, 0), (3, 1)])
async def test_the_call_is_cancelled_when_the_last_caller_has_gone(leaving, cancelled):
    replica = Replica()
    coalescer = Coalescing(replica)
    replica.open.clear()
    tasks = [asyncio.create_task(ask(coalescer, n)) for n in range(3)]
    while not replica.calls:
        await asyncio.sleep(0)
    for task in tasks[:leaving]:
        task.cancel()
    await asyncio.gather(*tasks[:leaving], return_exceptions=True)
    for _ in range(5):
        await asyncio.sleep(0)
    replica.open.set()
    assert await asyncio.gather(*tasks[leaving:]) == [2.0] * (3 - leaving)
    assert replica.cancelled == cancelled


async def test_who_leaves_before_the_call_is_not_in_it():
    replica = Replica()
    coalescer = Coalescing(replica)
    tasks = [asyncio.create_task(ask(coalescer, n)) for n in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    assert await asyncio.gather(*tasks[1:]) == [1.0, 2.0]
    assert replica.calls == [2]


async def test_a_call_is_made_in_no_requests_context():
    """Serve cancels all that was called in the context of a client that has gone."""
    request = contextvars.ContextVar("request")
    seen = []

    class Noting(Replica):
        async def send(self, call):
            seen.append(request.get(None))
            return await super().send(call)

    coalescer = Coalescing(Noting())

    async def asked(n: int) -> float:
        request.set(n)
        return await ask(coalescer, n)

    assert await asyncio.gather(*(asked(n) for n in range(3))) == [0, 1, 2]
    assert seen == [None]


async def test_a_call_that_others_cancel_leaves_nobody_waiting():
    class Cancelled:
        async def send(self, call):
            raise asyncio.CancelledError

    coalescer = Coalescing(Cancelled())
    asked = asyncio.gather(*(ask(coalescer, n) for n in range(3)), return_exceptions=True)
    answers = await asyncio.wait_for(asked, 5)
    assert [type(answer) for answer in answers] == [ModelUnavailable] * 3


async def test_each_request_of_a_call_keeps_its_own_deadline():
    replica = Replica()
    replica.open.clear()
    coalescer = Coalescing(replica)
    started = time.monotonic()
    hasty, patient = (
        asyncio.create_task(coalescer.send(call_of(text(n), deadline=started + seconds)))
        for n, seconds in ((1, 0.05), (2, 60))
    )
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(hasty, 5)
    replica.open.set()
    assert (await patient).vectors[0, 0] == 2
    assert replica.calls == [2]
