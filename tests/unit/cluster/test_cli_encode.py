"""Who gives way when `embedfleet encode` runs, and what ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster import cli
from cluster.corpus import command
from cluster.corpus.errors import JobError
from deployments.core.engine.cpu import priority as scheduling

WORDS = ["encode", "in.txt", "out", "--model", "small"]


@pytest.fixture
def order(monkeypatch) -> list[str]:
    """What happens, in turn; the job itself fails at once."""
    found: list[str] = []

    @contextmanager
    def started(*_):
        found.append("starts")
        yield

    def job(*_):
        found.append("works")
        raise JobError("enough")

    for module in (scheduling, command):
        monkeypatch.setattr(module, "give_way", lambda: found.append("gives way"))
    monkeypatch.setattr(command, "started_service", started)
    monkeypatch.setattr(command, "encode_corpus", job)
    return found


@pytest.mark.parametrize(
    ("more", "happens"),
    [
        ([], ["gives way", "works"]),
        (["--start", "serve_config.yaml"], ["starts", "gives way", "works"]),
    ],
)
def test_the_driver_gives_way_but_not_the_service_that_it_starts(order, more, happens):
    assert cli.main([*WORDS, *more]) == 1
    assert order == happens


@pytest.fixture
def told(monkeypatch) -> Iterator[list[int]]:
    """Keeps this process's own handlers; the signals that the job is sent go in here."""
    sent: list[int] = []

    def job(*_):
        for number in sent:
            os.kill(os.getpid(), number)
        raise JobError("went on")

    monkeypatch.setattr(command, "encode_corpus", job)
    # the tests themselves may run under nohup
    own = {signal.SIGINT: signal.getsignal(signal.SIGINT)}
    own |= {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGHUP)}
    yield sent
    for number, handler in own.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_ends_as_by_ctrl_c(told, monkeypatch, capsys, number):
    monkeypatch.setattr(scheduling, "give_way", lambda: None)
    told.append(number)
    assert cli.main(WORDS) == 130
    assert "stopped; run the same command again" in capsys.readouterr().err


def test_a_signal_of_which_a_library_makes_another_error_is_one_still(told, monkeypatch, capsys):
    def job(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise JobError("the job was abandoned") from error

    monkeypatch.setattr(scheduling, "give_way", lambda: None)
    monkeypatch.setattr(command, "encode_corpus", job)
    assert cli.main(WORDS) == 130
    assert "abandoned" not in capsys.readouterr().err


def test_a_terminal_that_has_gone_leaves_the_status(told, monkeypatch):
    class Gone:
        def isatty(self):
            return True

        def write(self, words):
            raise OSError(5, "Input/output error")

        flush = write

    monkeypatch.setattr(scheduling, "give_way", lambda: None)
    monkeypatch.setattr("sys.stderr", Gone())
    told.append(signal.SIGHUP)
    assert cli.main(WORDS) == 130


def test_under_nohup_it_goes_on(told, monkeypatch, capsys):
    monkeypatch.setattr(scheduling, "give_way", lambda: None)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    told.append(signal.SIGHUP)
    assert cli.main(WORDS) == 1
    assert "went on" in capsys.readouterr().err
