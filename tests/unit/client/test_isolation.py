"""Replicas that die on a text: how many, and what becomes of the texts that were with it."""

from __future__ import annotations

import time
from itertools import count

import numpy as np
import pytest

from deployments.client.call import Call, ReplicaDied
from deployments.client.poison import PoisonIsolation
from deployments.core.batch import Encoded, TokenBatch
from deployments.core.errors import KillsReplicas, Overloaded
from deployments.core.lane import Lane


class Notes:
    """The `Record` protocol in memory, for the clients of one test."""

    def __init__(self):
        self.begun, self.killers = {}, set()

    async def last_begun(self, trial):
        return self.begun.get(trial)

    async def block(self, trial, text):
        self.killers.add(text)

    async def blocked(self, texts):
        return [text for text in texts if text in self.killers]


class Fleet:
    """Replicas that die on texts which hold a poisoned id, or when the script says so."""

    def __init__(self, record, poison=(), accidents=()):
        self.record, self.poison, self.accidents = record, set(poison), set(accidents)
        self.deaths, self.number, self.sent, self.trials = 0, count(), [], []

    async def send(self, call):
        batch = call.batch
        texts = [batch.text(row).tolist() for row in range(len(batch))]
        self.sent.append([text[0] for text in texts])
        self.trials.append(call.trial is not None)
        if next(self.number) in self.accidents:
            self.die()
        for row, text in enumerate(texts):
            if call.trial:
                self.record.begun[call.trial] = row
            if self.poison & set(text):
                self.die()
        return Encoded(np.array([[float(text[0])] for text in texts], np.float32), 0.5, 0.25)

    def die(self):
        self.deaths += 1
        raise ReplicaDied("dead")


@pytest.fixture
def record():
    return Notes()


async def call(fleet, *ids, client=None):
    """Makes a call of one-token texts; returns the vectors and the rows with errors."""
    client = client or PoisonIsolation(fleet, fleet.record)
    encoded = await client.send(call_of(*ids))
    assert all(isinstance(error, KillsReplicas) for error in encoded.errors.values())
    assert len(encoded.vectors) == len(ids)
    for row in set(range(len(ids))) - set(encoded.errors):
        assert encoded.vectors[row, 0] == ids[row]
    return set(encoded.errors)


def call_of(*ids):
    batch = TokenBatch.from_lists([[i] for i in ids])
    return Call(batch, Lane.ONLINE, time.monotonic() + 60, "space")


async def test_without_a_death_nothing_is_added(record):
    fleet = Fleet(record)
    assert await call(fleet, 1, 2, 3) == set()
    assert fleet.sent == [[1, 2, 3]]


@pytest.mark.parametrize("place", [0, 31, 63])
async def test_a_poisoned_text_kills_two_and_its_neighbours_are_answered(record, place):
    fleet = Fleet(record, poison=[place + 1])
    assert await call(fleet, *range(1, 65)) == {place}
    assert fleet.deaths == 2


async def test_each_further_poisoned_text_of_a_call_costs_one_more(record):
    fleet = Fleet(record, poison=[3, 7, 9])
    assert await call(fleet, *range(1, 11)) == {2, 6, 8}
    assert fleet.deaths == 4


@pytest.mark.parametrize("accidents", [[0], [0, 1]])
async def test_accidents_refuse_nobody(record, accidents):
    fleet = Fleet(record, accidents=accidents)
    assert await call(fleet, 1, 2, 3) == set()
    assert fleet.deaths == len(accidents)


async def test_a_client_remembers_and_does_not_send_it_again(record):
    fleet = Fleet(record, poison=[2])
    client = PoisonIsolation(fleet, record)
    await call(fleet, 1, 2, client=client)
    fleet.sent.clear()
    assert await call(fleet, 5, 2, 6, client=client) == {1}
    assert (fleet.deaths, fleet.sent) == (2, [[5, 6]])


async def test_texts_that_passed_a_trial_are_sent_without_one(record):
    fleet = Fleet(record, accidents=[0])
    client = PoisonIsolation(fleet, record)
    await call(fleet, 1, 2, client=client)
    assert await call(fleet, 1, 2, client=client) == set()
    assert fleet.sent == [[1, 2]] * 3
    assert fleet.trials == [False, True, False]


async def test_another_client_loses_one_replica_not_two(record):
    fleet = Fleet(record, poison=[2])
    await call(fleet, 1, 2)
    assert await call(fleet, 2, 3) == {0}
    assert fleet.deaths == 3


async def test_a_trial_that_a_neighbour_ended_blocks_nobody(record):
    """Another call's text may kill the replica while the suspected still wait there."""
    fleet = Fleet(record, accidents=[0, 1, 2])
    assert await call(fleet, 1, 2) == set()


async def test_a_call_of_nothing_but_blocked_texts_reaches_no_replica(record):
    fleet = Fleet(record, poison=[2])
    client = PoisonIsolation(fleet, record)
    await call(fleet, 1, 2, client=client)
    fleet.sent.clear()
    assert await call(fleet, 2, 2, client=client) == {0, 1}
    assert fleet.sent == []


async def test_other_errors_are_the_calls_own(record):
    class Full:
        async def send(self, call):
            raise Overloaded("full")

    with pytest.raises(Overloaded):
        await PoisonIsolation(Full(), record).send(call_of(1))
