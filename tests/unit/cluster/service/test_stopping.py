"""How `embedfleet serve` passes on that it is told to stop."""

from __future__ import annotations

import signal

import pytest

from cluster.service import drain as serve_run
from cluster.service.serve import _Stop

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
def test_asked_once_it_drains_asked_again_it_ends_and_then_it_is_killed(handlers, number):
    stop, child = _Stop(), Child()
    stop.passes_on_to(child)
    assert child.got == []
    for _ in range(4):
        handlers[number](number, None)
    assert child.got == [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGKILL]


def test_asked_before_there_is_a_child(handlers):
    stop, child = _Stop(), Child()
    handlers[signal.SIGTERM](signal.SIGTERM, None)
    stop.passes_on_to(child)
    assert child.got == [signal.SIGINT]


def test_nohup_stays_in_force(handlers, monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN)
    _Stop()
    assert set(handlers) == {signal.SIGINT, signal.SIGTERM}


def test_what_keeps_it_from_stopping_in_order_is_said(handlers, monkeypatch, capsys):
    def unreachable():
        raise ConnectionError("no controller")

    monkeypatch.setattr(serve_run.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(serve_run.serve, "status", unreachable)
    with pytest.raises(KeyboardInterrupt):
        serve_run._drain(signal.SIGINT, None)
    assert handlers == {signal.SIGINT: signal.SIG_IGN}
    assert "no controller" in capsys.readouterr().err
