"""One runner at a time for a store."""

from __future__ import annotations

import pytest

from deployments.batches.lease import Lease
from deployments.batches.store import open_store


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(tmp_path, clock) -> tuple[Lease, Lease]:
    """Two runners of one store."""
    return tuple(Lease(open_store(str(tmp_path)), clock) for _ in range(2))


def test_the_first_one_holds_it_once_it_has_settled(leases, clock):
    first, second = leases
    assert not first.renew()
    assert not second.renew()
    clock.now += 1.5
    assert first.renew()
    assert not second.renew()
    assert not second.is_held


def test_it_stays_with_a_runner_that_is_alive(leases, clock):
    first, second = leases
    for _ in range(60):
        first.renew()
        assert not second.renew()
        clock.now += 1.0
    assert first.is_held


def test_another_one_takes_over_from_a_dead_runner(leases, clock):
    first, second = leases
    first.renew()
    second.renew()
    clock.now += 9.0
    assert not second.renew()
    clock.now += 1.5
    assert not second.renew()  # it claims
    clock.now += 1.5
    assert second.renew()
    assert not first.renew()  # it was suspended, and comes back
    assert not first.is_held


def test_of_two_that_claim_at_once_one_gets_it(leases, clock):
    first, second = leases
    second._store.note = lambda name: None  # it looked before the first one wrote
    first.renew()
    second.renew()
    del second._store.note
    clock.now += 1.5
    held = [lease.renew() for lease in leases]
    assert held == [False, True]
