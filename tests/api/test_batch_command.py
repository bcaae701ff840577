"""``embedfleet batch`` against the real API behind a socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from cluster import cli
from cluster.service.http import Service
from deployments.api.files import ApiBatches
from deployments.batch_runner.answering import LineAnswers
from deployments.batches.store import Store, open_store
from deployments.batches.threads import StoreThreads
from deployments.config.schema import BatchesConfig
from tests.api.calls import app_of, default_limits
from tests.api.fake_backend import FakeBackend
from tests.api.serving import serving
from tests.support.batches import as_jsonl, hurry, ids_of, input_line, running


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    hurry(monkeypatch)
    monkeypatch.setattr("cluster.service.batch._EVERY_S", 0.05)
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def url(store, monkeypatch) -> Iterator[str]:
    """The address of a service that runs batches in a thread."""
    stop, answers = threading.Event(), LineAnswers(FakeBackend(), default_limits(), 5)

    async def run() -> None:
        async with running(store, answers.answer):
            while not stop.is_set():
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    with serving(
        app_of(FakeBackend(), batches=ApiBatches(BatchesConfig(), StoreThreads(lambda: store)))
    ) as url:
        monkeypatch.setenv("EMBEDFLEET_URL", url)
        yield url
    stop.set()
    thread.join(10)


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_sends_waits_and_fetches(url, tmp_path, capsys):
    file = tmp_path / "in.jsonl"
    file.write_bytes(as_jsonl([*map(input_line, "abc"), b"nonsense"]))
    assert cli.main(["batch", str(file)]) == 3  # a line has an error
    assert ids_of(read(tmp_path / "in.output.jsonl")) == ["a", "b", "c"]
    (error,) = read(tmp_path / "in.errors.jsonl")
    assert error["error"]["line"] == 4
    printed = capsys.readouterr()
    assert "completed: 4 of 4 lines, 1 with an error" in printed.err
    batch_id = printed.out.split(" is ")[1].splitlines()[0]
    results = tmp_path / "again" / "results.jsonl"
    assert cli.main(["batch", "--id", batch_id, "--output", str(results)]) == 3
    assert ids_of(read(results)) == ["a", "b", "c"]
    assert results.with_name("results.errors.jsonl").exists()
    assert not list(tmp_path.rglob("*.partial"))


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("send_file", "nothing was sent"),
        ("create_batch", "was sent, and its batch may go on; `GET /v1/batches`"),
        ("batch", "goes on; `embedfleet batch --id batch_"),
        ("fetch_file", "is completed; `embedfleet batch --id batch_"),
    ],
)
def test_ctrl_c_says_what_becomes_of_the_batch(url, tmp_path, capsys, monkeypatch, method, words):
    file = tmp_path / "in.jsonl"
    file.write_bytes(as_jsonl([input_line("a")]))
    monkeypatch.setattr(Service, method, interrupt)
    assert cli.main(["batch", str(file)]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("embedfleet: stopped; ")
    assert words in last


def test_the_status_is_0_if_every_line_was_answered(url, tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_bytes(as_jsonl([*map(input_line, "ab")]))
    assert cli.main(["batch", str(file)]) == 0
    assert not (tmp_path / "in.errors.jsonl").exists()


def test_a_batch_that_fails_says_why(url, tmp_path, capsys):
    file = tmp_path / "in.jsonl"
    file.write_bytes(as_jsonl([input_line("a"), input_line("a")]))
    assert cli.main(["batch", str(file)]) == 1
    assert "line 2" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "store"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["missing.jsonl"], "there is no file missing.jsonl"),
        (["."], ". cannot be read: Is a directory"),
        (["--id", "batch_no"], "'batch_no'"),
        (["--id", "../x"], "Not Found"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(
    url, tmp_path, capsys, arguments, named, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["batch", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("embedfleet: ")
    assert named in line
