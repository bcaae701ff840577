"""One runner at a time for a store."""

from __future__ import annotations

import pytest

from deployments.batches.lease import Lease, LeaseLost
from deployments.batches.store import Store, open_store


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path))


@pytest.fixture
def leases(clock) -> tuple[Lease, Lease]:
    """Two runners of one store."""
    return Lease(clock), Lease(clock)


def renewed(lease: Lease, store: Store) -> bool:
    lease.renew(store)
    return lease.is_held


def test_the_first_one_holds_it_once_it_has_settled(leases, store, clock):
    first, second = leases
    assert not renewed(first, store)
    assert not renewed(second, store)
    clock.now += 1.5
    assert not first.is_held  # it has not looked again
    assert renewed(first, store)
    assert not renewed(second, store)


def test_it_stays_with_a_runner_that_is_alive(leases, store, clock):
    first, second = leases
    for _ in range(60):
        first.renew(store)
        assert not renewed(second, store)
        clock.now += 1.0
    assert first.is_held
    first.check()


def test_another_one_takes_over_from_a_dead_runner(leases, store, clock):
    first, second = leases
    first.renew(store)
    second.renew(store)
    clock.now += 9.0
    assert not renewed(second, store)
    clock.now += 1.5
    assert not renewed(second, store)  # it claims
    clock.now += 1.5
    assert renewed(second, store)
    assert not renewed(first, store)  # it was suspended, and comes back


def test_a_runner_that_was_suspended_has_lost_it_before_it_looks(leases, store, clock):
    first, second = leases
    first.renew(store)
    clock.now += 1.5
    assert renewed(first, store)
    assert not renewed(second, store)
    clock.now += 9.0  # before another one can have it
    with pytest.raises(LeaseLost):
        first.check()
    assert not renewed(first, store)  # it claims again, and has to settle
    clock.now += 1.5
    assert renewed(first, store)


def test_it_is_held_only_once_the_note_is_written(leases, store, clock, monkeypatch):
    first, _ = leases
    first.renew(store)
    clock.now += 1.5

    def slow(self, name, content):
        clock.now += 30.0

    monkeypatch.setattr(Store, "write_note", slow)
    assert not renewed(first, store)


def test_of_two_that_claim_at_once_one_gets_it(leases, store, clock, monkeypatch):
    first, second = leases
    first.renew(store)
    with monkeypatch.context() as unseen:
        unseen.setattr(
            Store, "note", lambda self, name: None
        )  # it looked before the first one wrote
        second.renew(store)
    clock.now += 1.5
    assert [renewed(lease, store) for lease in leases] == [False, True]
