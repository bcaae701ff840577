"""How `embedfleet serve` passes on that it is told to stop."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cluster.service import drain, environment
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
    actual = {}
    monkeypatch.setattr(signal, "signal", actual.__setitem__)
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    return actual


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


def test_what_keeps_it_from_stopping_in_order_is_said(monkeypatch, capsys):
    def unreachable(timeout_s):
        raise ConnectionError("no controller")

    ended = []
    monkeypatch.setattr(drain.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(drain.ray, "shutdown", lambda: ended.append("ray"))
    monkeypatch.setattr(drain, "application_details", unreachable)
    drain.Service().stop()
    assert ended == ["ray"]
    assert "no controller" in capsys.readouterr().err


@pytest.fixture
def without_ray(monkeypatch, tmp_path):
    """A machine without Ray, whose short paths are in a folder of this test."""
    for name in ("RAY_TMPDIR", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "SHORT", tmp_path)
    monkeypatch.setattr(drain, "started_by_hand", lambda: None)
    return tmp_path


def test_a_ray_of_its_own_keeps_its_session_where_no_other_user_writes(without_ray):
    (folder,) = drain._private_sessions().values()
    assert Path(folder).parent.stat().st_mode & 0o777 == 0o700
    assert Path(folder).is_relative_to(without_ray)


def test_a_ray_that_runs_and_a_folder_that_is_set_are_kept(without_ray, monkeypatch):
    monkeypatch.setattr(drain, "started_by_hand", lambda: "10.0.0.1:6379")
    assert drain._private_sessions() == {}
    monkeypatch.undo()
    monkeypatch.setenv("RAY_TMPDIR", str(without_ray))
    assert drain._private_sessions() == {}


def test_a_start_that_fails_is_one_sentence(without_ray, monkeypatch, capsys, tmp_path):
    def fail(**options):
        raise TimeoutError("HTTP proxies not available after 300 s.\nand a lot more")

    monkeypatch.setattr(drain.ray, "init", fail)
    config = tmp_path / "config.yaml"
    config.write_text("applications: []")
    assert drain.Service().run(config) == 1
    error = capsys.readouterr().err
    assert error == (
        "embedfleet: the service cannot start: TimeoutError: HTTP proxies not available after 300 s.\n"
    )
