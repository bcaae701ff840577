"""What `embedfleet serve` prints about its models until they have started."""

from __future__ import annotations

import json
import shlex

import pytest

from cluster.service import listening
from cluster.service.http import KeyRefused, ServiceError

URL = "http://127.0.0.1:8123"
NO_FILE, NO_CPUS = ("unavailable", "no such folder"), ("unavailable", "64 CPUs")
STARTING, READY = ("starting", "its first replica is starting"), ("ready", None)
UNABLE, LATE = "no model can run yet", "no model is ready yet"


class Child:
    """A service that ends after a number of looks."""

    def __init__(self, looks):
        self._looks = looks

    def poll(self):
        self._looks -= 1
        return 0 if self._looks < 0 else None


class FakeService:
    """Has the states of one look after the other; the clock moves with the sleeps between them."""

    api_key = None

    def __init__(self, looks, url=URL):
        self.url = url
        self.now = 0.0
        self.sleeps = []
        self._looks = looks

    @property
    def has_key(self):
        return self.api_key is not None

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds

    def is_ready(self):
        return READY in self._states()

    def models(self):
        return [shown(*model) for model in zip("abc", self._states(), strict=False)]

    def _states(self):
        return self._looks[min(len(self.sleeps), len(self._looks) - 1)]


def shown(name, model):
    state, reason = model
    others = "size replicas dimension max_tokens languages space_id device dtype".split()
    return {"id": name, "state": state, "reason": reason, **dict.fromkeys(others)}


@pytest.fixture
def announced(capsys):
    """Returns what is printed about a service."""

    def output(looks, url=URL, steps=None, expected="abc"):
        service = FakeService(looks, url)
        child = Child(len(looks) if steps is None else steps)
        listening.announce(child, service, expected, service.clock, service.sleep)
        return capsys.readouterr().out

    return output


def test_reasons_are_printed_once_and_again_when_they_change(announced):
    output = announced([[NO_FILE, STARTING], *[[NO_FILE, NO_CPUS]] * 3])
    assert output.count(UNABLE) == output.count("a: no such folder") == 1
    assert output.count("b: 64 CPUs") == 1
    output = announced([[NO_FILE], [STARTING], [NO_FILE], [NO_CPUS], [NO_CPUS]])
    assert output.count(UNABLE) == 2
    assert output.index("a: no such folder") < output.index("a: 64 CPUs")


def test_nothing_is_printed_while_a_model_may_start(announced):
    assert announced([[NO_FILE, STARTING]] * 3) == ""
    assert announced([[]]) == ""


def test_a_slow_start_is_explained_now_and_then(announced):
    output = announced([[STARTING]] * 150)
    assert output.splitlines() == [
        "embedfleet: still starting after 30 s: a is starting",
        "embedfleet: still starting after 90 s: a is starting",
    ]
    assert announced([[STARTING]] * 50) == ""  # 40 looks in 10 s, then one a second


def test_models_that_start_later_are_reported(announced):
    output = announced([[READY, STARTING]] * 4 + [[READY, NO_FILE]] * 4)
    assert output.count("ready after") == 1
    assert output.count("MODEL ") == 2


def test_a_model_that_starts_for_ever_is_not_watched_for_ever():
    service = FakeService([[READY, STARTING]])
    listening.announce(Child(10_000), service, "abc", service.clock, service.sleep)
    assert 600 <= service.now < 610


def test_a_model_that_recovers_is_reported(announced):
    output = announced([[NO_FILE], [READY]])
    assert output.index(UNABLE) < output.index(f"ready after 0 s at {URL}")


def test_the_line_to_try_can_be_pasted(announced):
    output = announced([[READY]])
    (line,) = [line for line in output.splitlines() if "curl" in line]
    words = shlex.split(line)
    assert words[2] == f"{URL}/v1/embeddings"
    assert json.loads(words[-1])["input"]
    assert "Authorization" not in line


@pytest.mark.parametrize("key", ["key", "", "of another service", None])
def test_the_line_to_try_has_the_key_that_the_service_wants(announced, monkeypatch, key):
    monkeypatch.setattr(FakeService, "api_key", "key")
    monkeypatch.delenv("EMBEDFLEET_API_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("EMBEDFLEET_API_KEY", key)
    output = announced([[READY]])
    assert '-H "Authorization: Bearer $EMBEDFLEET_API_KEY"' in output
    assert ("put one of the keys into EMBEDFLEET_API_KEY" in output) is (key != "key")


@pytest.mark.parametrize("wrong_key", [True, False])
def test_a_service_that_keeps_its_models_to_callers_with_a_key(announced, monkeypatch, wrong_key):
    def refuse(self):
        raise KeyRefused("requires an API key")

    monkeypatch.setattr(FakeService, "models", refuse)
    if wrong_key:
        monkeypatch.setenv("EMBEDFLEET_API_KEY", "of another service")
    output = announced([*[[STARTING]] * 62, [READY]])
    assert f"`embedfleet models --url {URL}` shows the states" in output.splitlines()[0]
    assert "models: a, b, c; " in output
    assert '-H "Authorization: Bearer $EMBEDFLEET_API_KEY"' in output
    assert "put one of the keys into EMBEDFLEET_API_KEY" in output
    assert "cannot list" not in output


def test_another_service_at_the_same_address_is_not_taken_for_ours(announced):
    output = announced([[READY, READY]] * 5, expected="a")
    assert "ready after" not in output
    assert output.count(f"another service answers at {URL}: it serves b") == 1


def test_the_models_of_an_app_that_is_not_ours_are_unknown(announced):
    assert "ready after" in announced([[READY, READY]], expected="")


def test_a_service_is_asked_less_often_once_its_start_takes_long():
    service = FakeService([[STARTING]])
    listening.announce(Child(100), service, "abc", service.clock, service.sleep)
    assert set(service.sleeps[:40]) == {0.25}
    assert set(service.sleeps[40:]) == {1.0}


def test_models_that_cannot_be_listed_are_mentioned(announced, monkeypatch):
    def refuse(self):
        raise ServiceError("requires an API key")

    monkeypatch.setattr(FakeService, "models", refuse)
    output = announced([[READY]])
    assert "ready after" in output
    assert "requires an API key" in output


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("http://127.0.0.1:8000", "`embedfleet models`"),
        (URL, f"`embedfleet models --url {URL}`"),
    ],
)
def test_a_late_service_is_mentioned_once(announced, url, command):
    output = announced([*[[STARTING]] * 780, [READY]], url)
    assert output.count(LATE) == 1
    assert command in output
    assert "ready after 750 s" in output  # 40 looks in 10 s, then one a second
