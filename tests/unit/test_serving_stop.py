"""How `embedfleet serve` passes on that it is told to stop."""

from __future__ import annotations

import signal

import pytest

from cluster.serving import _Stop

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Child:
    """Keeps the signals that it gets."""

    def __init__(self) -> None:
        self.got: list[signal.Signals] = []

    def send_signal(self, number):
        self.got.append(number)


@pytest.fixture
def handlers(monkeypatch):
    """What is set for each signal, in place of this process's own."""
    found = {}
    monkeypatch.setattr(signal, "signal", found.__setitem__)
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    return found


@pytest.mark.parametrize("number", STOPS)
def test_asked_once_it_drains_asked_again_it_ends(handlers, number):
    stop, child = _Stop(), Child()
    stop.passes_on_to(child)
    assert child.got == []
    for _ in range(2):
        handlers[number](number, None)
    assert child.got == [signal.SIGINT, signal.SIGTERM]


def test_asked_before_there_is_a_child(handlers):
    stop, child = _Stop(), Child()
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    stop.passes_on_to(child)
    assert child.got == [signal.SIGINT]


def test_nohup_stays_in_force(handlers, monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    _Stop()
    assert set(handlers) == {signal.SIGINT, signal.SIGTERM}
