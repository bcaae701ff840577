"""Who gives way when `embedfleet encode` runs."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from cluster import cli
from cluster.encoding import command
from cluster.encoding.failures import JobError
from deployments.embedding.engine import thread_priority as scheduling

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
