"""Routers tell each other what tenants have taken; the store is a dictionary."""

from __future__ import annotations

import pytest

from deployments.router.peers import Peers


class Memory:
    def __init__(self):
        self.values = {}

    def put(self, key, value):
        self.values[key] = value.encode()

    def get(self, key):
        return self.values.get(key)

    def keys(self, prefix):
        return [key for key in self.values if key.startswith(prefix)]

    def delete(self, key):
        del self.values[key]


@pytest.fixture
def store():
    return Memory()


@pytest.fixture
def peers(store):
    return {name: Peers(store, "routers/app/", name) for name in "abc"}


def test_each_hears_what_the_others_have_said_last(peers):
    assert peers["a"].exchange({"x/online": 5}, 0.0) == {}
    assert peers["b"].exchange({"x/online": 1}, 0.5) == {"routers/app/a": {"x/online": 5}}
    assert peers["a"].exchange({"x/online": 7}, 1.0) == {"routers/app/b": {"x/online": 1}}
    assert peers["b"].exchange({}, 1.5) == {"routers/app/a": {"x/online": 7}}


def test_other_services_are_not_heard(peers, store):
    Peers(store, "routers/another/", "z").exchange({"x/online": 1}, 0.0)
    assert peers["a"].exchange({}, 0.0) == {}


def test_a_router_that_says_nothing_is_gone_after_five_seconds_and_removed_after_a_minute(
    peers, store
):
    peers["b"].exchange({}, 1_000.0)  # whatever the clock of its machine says
    for now in range(6):
        assert list(peers["a"].exchange({}, float(now))) == ["routers/app/b"]
    for now in range(6, 62):
        assert peers["a"].exchange({}, float(now)) == {}
    assert list(store.values) == ["routers/app/a"]


def test_a_router_that_comes_back_is_heard_again(peers):
    peers["b"].exchange({}, 0.0)
    for now in range(10):
        peers["a"].exchange({}, float(now))
    peers["b"].exchange({"x/online": 3}, 10.0)
    assert peers["a"].exchange({}, 10.0) == {"routers/app/b": {"x/online": 3}}
