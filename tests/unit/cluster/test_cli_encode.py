"""Who gives way when `embedfleet encode` or `score` runs, what ends it, and what it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster import cli
from cluster.corpus import command, connect, job, start_service
from cluster.corpus.errors import JobError
from cluster.corpus.job import Summary
from cluster.corpus.settings import Pairs, Settings
from cluster.corpus.watchdog import Watchdog
from cluster.corpus.write.manifest import Counts, Identity, Manifest
from deployments.core.engine.cpu import priority as scheduling


@pytest.fixture
def words(tmp_path) -> list[str]:
    (tmp_path / "in.txt").write_text("one\n")
    return ["encode", str(tmp_path / "in.txt"), str(tmp_path / "out"), "--model", "small"]


@pytest.fixture
def order(monkeypatch) -> list[str]:
    """What happens, in turn; the job itself fails at once."""
    events: list[str] = []

    @contextmanager
    def started(*_):
        events.append("starts")
        yield

    def encode(*_):
        events.append("works")
        raise JobError("enough")

    for module in (scheduling, command):
        monkeypatch.setattr(module, "give_way", lambda: events.append("gives way"))
    monkeypatch.setattr(start_service, "started_service", started)
    monkeypatch.setattr(job, "encode_opened", encode)
    return events


@pytest.mark.parametrize(
    ("more", "happens"),
    [
        ([], ["gives way", "works"]),
        (["--start", "serve_config.yaml"], ["starts", "gives way", "works"]),
    ],
)
def test_the_driver_gives_way_but_not_the_service_that_it_starts(order, words, more, happens):
    assert cli.main([*words, *more]) == 1
    assert order == happens


@pytest.fixture
def signals(monkeypatch) -> Iterator[list[int]]:
    """Keeps this process's own handlers; the signals that the job is sent go in here."""
    sent: list[int] = []

    def encode(*_):
        for number in sent:
            os.kill(os.getpid(), number)
        raise JobError("went on")

    monkeypatch.setattr(job, "encode_opened", encode)
    monkeypatch.setattr(scheduling, "give_way", lambda: None)
    # the tests themselves may run under nohup
    own = {signal.SIGINT: signal.getsignal(signal.SIGINT)}
    own |= {n: signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGHUP)}
    yield sent
    for number, handler in own.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_job_as_ctrl_c_does(signals, words, capsys, number):
    signals.append(number)
    assert cli.main(words) == 130
    assert "stopped; 0 of 1 parts are written and kept. Run the same" in capsys.readouterr().err


def test_a_signal_of_which_a_library_makes_another_error_is_one_still(
    signals, words, monkeypatch, capsys
):
    def encode(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise JobError("the job was abandoned") from error

    monkeypatch.setattr(job, "encode_opened", encode)
    assert cli.main(words) == 130
    assert "abandoned" not in capsys.readouterr().err


def test_a_terminal_that_has_gone_leaves_the_status(signals, words, monkeypatch):
    class Closing:
        """A terminal that is there until the signal comes."""

        closed = False

        def isatty(self):
            return True

        def write(self, text):
            if self.closed:
                raise OSError(5, "Input/output error")

        def flush(self):
            self.write("")

    terminal = Closing()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(signal, "default_int_handler", close_and_interrupt(terminal))
    signals.append(signal.SIGHUP)
    assert cli.main(words) == 130
    assert terminal.closed


def close_and_interrupt(terminal):
    def handler(number, frame):
        terminal.closed = True
        raise KeyboardInterrupt

    return handler


def test_under_nohup_it_goes_on(signals, words, capsys):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.append(signal.SIGHUP)
    assert cli.main(words) == 1
    assert "went on" in capsys.readouterr().err


def test_ray_is_watched_before_the_wait_for_the_model(words, monkeypatch):
    watched = []

    def wait(*_):
        assert watched == ["/session/sockets/raylet"]
        raise JobError("enough")

    monkeypatch.setattr(scheduling, "give_way", lambda: None)
    monkeypatch.setattr(connect, "raylet_socket", lambda: "/session/sockets/raylet")
    monkeypatch.setattr(Watchdog, "watch_raylet", lambda _, path: watched.append(path))
    for name in ("connect", "check_disk"):
        monkeypatch.setattr(job, name, lambda *_: None)
    monkeypatch.setattr(job, "wait_for_model", wait)
    assert cli.main(words) == 1
    assert len(watched) == 1


IDENTITY = Identity("m", "r", "v", "s", "document", None, 2, True)
SCORES = Summary(
    Manifest(Identity("judge", "r", "v", "s", "pair", None, 1, False), {}, {}, Counts(3, 2, 2, 1)),
    "out",
    "out.job",
    None,
    9,
    1.0,
    None,
)


@pytest.mark.parametrize(
    ("counts", "status", "words_printed"),
    [
        (Counts(3, 2, 2, 1, reasons={"null": 1}), 0, "1 rejected (1 null): see out.job"),
        (Counts(rows=3, rejected=3, reasons={"null": 3}), 3, "no row could be encoded"),
        (Counts(), 3, "no row could be encoded"),
    ],
)
def test_a_job_without_a_vector_ends_with_another_status(
    monkeypatch, words, capsys, counts, status, words_printed
):
    summary = Summary(Manifest(IDENTITY, {}, {}, counts), "out", "out.job", "1 .md", 9, 1.0, None)
    monkeypatch.setattr(scheduling, "give_way", lambda: None)
    monkeypatch.setattr(job, "encode_opened", lambda *_: summary)
    assert cli.main(words) == status
    printed = capsys.readouterr().out
    assert words_printed in printed
    assert "1 .md" in printed


REFUSALS = """
import sys, time
from cluster import cli
for extra in (["--text-column", "absent"], ["--chunk", "0"], ["--keep", "absent"], ["--limit", "-1"]):
    started = time.perf_counter()
    assert cli.main([*sys.argv[1:], *extra]) == 1, extra
    print(time.perf_counter() - started, file=sys.stderr)
assert cli.main(["encode", "/absent", "out", "--model", "m"]) == 1
for module in ("ray", "torch", "transformers"):
    assert module not in sys.modules, module
"""


@pytest.mark.timeout(180)  # imports of a new process, on a machine that may be busy
def test_paths_flags_and_columns_are_refused_before_ray_is_imported(words):
    run = subprocess.run(
        [sys.executable, "-c", REFUSALS, *words], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "absent" in run.stderr


def test_the_address_of_the_service_reaches_the_job(words, monkeypatch):
    runs = []

    def encode(_, run):
        runs.append(run)
        raise JobError("enough")

    monkeypatch.setattr(job, "encode_opened", encode)
    monkeypatch.setattr(scheduling, "give_way", lambda: None)  # for the rest of the tests, too
    assert cli.main([*words, "--url", "127.0.0.1:8001/v1"]) == 1
    assert [run.url for run in runs] == ["http://127.0.0.1:8001"]


def test_each_option_of_score_reaches_the_job(tmp_path, monkeypatch):
    source = tmp_path / "in.csv"
    source.write_text("q;d;n\na;b;1\n")
    jobs = []
    monkeypatch.setattr(scheduling, "give_way", lambda: None)
    monkeypatch.setattr(job, "encode_opened", lambda opened, run: jobs.append(opened) or SCORES)
    line = ["score", str(source), str(tmp_path / "out"), "--model", "judge", "--raw-scores"]
    line += ["--query-column", "q", "--document-column", "d", "--id-column", "n", "--keep", "q,d"]
    line += ["--instruction", "Judge", "--truncate", "--limit", "7", "--delimiter", ";"]
    assert cli.main(line) == 0
    [opened] = jobs
    assert opened.settings == Settings(
        str(source),
        str(tmp_path / "out"),
        "judge",
        text_column="d",
        id_column="n",
        keep=("q", "d"),
        instruction="Judge",
        limit=7,
        truncate=True,
        delimiter=";",
        pairs=Pairs("q", raw_scores=True),
    )


def test_the_summary_of_scores_names_no_space(capsys):
    print(command.report(SCORES))
    printed = capsys.readouterr().out
    assert "3 rows in, 2 scored, 1 rejected" in printed
    assert "judge, revision v" in printed
    assert "dimensions" not in printed


@pytest.mark.parametrize(
    "option", ["--chunk", "--dtype", "--dimensions", "--role", "--text-column"]
)
def test_score_has_no_options_of_vectors(words, option, capsys):
    with pytest.raises(SystemExit):
        cli.main(["score", *words[1:], option, "1"])
    assert option in capsys.readouterr().err
