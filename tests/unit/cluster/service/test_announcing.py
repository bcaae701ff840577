"""What `embedfleet serve` says of its models until one is ready."""

from __future__ import annotations

import httpx
import pytest

from cluster.service import listening


class Child:
    """A service that ends by itself after so many looks."""

    def __init__(self, looks):
        self._looks = looks

    def poll(self):
        self._looks -= 1
        return 0 if self._looks < 0 else None


@pytest.fixture
def announced(monkeypatch, capsys):
    """Returns what is said of a service whose models are in turn in these states."""

    def said(looks, url="http://127.0.0.1:8123"):
        turns = iter(looks)
        now = {}

        def get(address, **_):
            if address.endswith("/ready"):
                now["models"] = next(turns)
                is_ready = any(state == "ready" for state, _ in now["models"])
                return httpx.Response(200 if is_ready else 503)
            return httpx.Response(200, json={"data": [*map(shown, "abc", now["models"])]})

        monkeypatch.setattr(listening.httpx, "get", get)
        monkeypatch.setattr(listening, "_LOOK_S", 0.0)
        monkeypatch.setattr(listening, "_UNABLE_EVERY_S", 0.0)
        listening.announce(Child(len(looks)), url)
        return capsys.readouterr().out

    return said


def shown(name, model):
    state, reason = model
    others = "size replicas dimension max_tokens languages space_id device dtype".split()
    return {"id": name, "state": state, "reason": reason, **dict.fromkeys(others)}


NO_FILE, NO_CPUS = ("unavailable", "no such folder"), ("unavailable", "64 CPUs")
UNABLE = "no model can run yet; `embedfleet models --url http://127.0.0.1:8123` shows the latest"


def test_models_none_of_which_can_run_are_shown_at_once_and_when_that_changes(announced):
    said = announced([[NO_FILE, ("starting", "not seen yet")], *[[NO_FILE, NO_CPUS]] * 3])
    assert said.count(UNABLE) == said.count("a: no such folder") == said.count("b: 64 CPUs") == 1
    said = announced([[NO_FILE], [("starting", None)], [NO_FILE], [NO_CPUS], [NO_CPUS]])
    assert said.count(UNABLE) == 2
    assert said.index("a: no such folder") < said.index("a: 64 CPUs")


def test_a_model_that_may_start_is_waited_for_quietly(announced):
    assert announced([[NO_FILE, ("starting", None)]] * 3) == ""
    assert announced([[]]) == ""


def test_what_becomes_of_a_model_that_starts_more_slowly(announced, monkeypatch):
    starting = ("starting", "its first replica is starting")
    looks = iter([[("ready", None), starting]] * 4 + [[("ready", None), NO_FILE]] * 4)
    monkeypatch.setattr(listening, "_listed", lambda url: [*map(shown, "ab", next(looks))])
    said = announced([[("ready", None), starting]] * 10)
    assert said.count("ready after") == 1
    assert said.count("MODEL ") == 2


def test_models_that_recover_are_announced(announced):
    said = announced([[NO_FILE], [("ready", None)]])
    assert said.index(UNABLE) < said.index("ready after 0 s at http://127.0.0.1:8123")


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("http://127.0.0.1:8000", "`embedfleet models`"),
        ("http://127.0.0.1:8123", "`embedfleet models --url http://127.0.0.1:8123`"),
    ],
)
def test_a_service_that_is_late_says_so_once_and_goes_on(announced, monkeypatch, url, command):
    monkeypatch.setattr(listening, "_READY_TIMEOUT_S", -1.0)
    said = announced([*[[("starting", None)]] * 3, [("ready", None)]], url)
    assert said.count(f"no model is ready yet; {command} says why") == 1
    assert "ready after" in said
