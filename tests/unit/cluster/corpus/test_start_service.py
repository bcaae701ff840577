"""The service of `--start`: what is waited out until it answers, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.corpus import start_service as starting
from cluster.corpus.errors import JobError, StillLoading, WrongModel
from deployments.core.models.spec import GIVE_VECTORS
from deployments.wire.status import ModelState


@pytest.fixture
def says(monkeypatch):
    """Sets what the service raises when it is asked for the model."""

    def find(error: Exception) -> None:
        def raises(*_):
            raise error

        monkeypatch.setattr(starting, "join", lambda address: None)
        monkeypatch.setattr(starting, "find_model", raises)
        monkeypatch.setattr(starting.ray, "shutdown", lambda: None)

    return find


@pytest.mark.parametrize(
    "error",
    [JobError("no Ray"), RayServeException("no app"), RayActorError(), TimeoutError(), OSError()],
)
def test_a_half_started_service_is_waited_for(says, error):
    says(error)
    assert starting._state("m", None, GIVE_VECTORS) is None


@pytest.mark.parametrize(
    "error",
    [
        WrongModel("no such model"),
        ValueError("a bug"),
        RayTaskError("served", "trace", ValueError("a bug")).as_instanceof_cause(),
    ],
)
def test_what_does_not_pass_is_said_at_once(says, error):
    says(error)
    with pytest.raises(type(error)):
        starting._state("m", None, GIVE_VECTORS)


def test_a_service_whose_model_is_still_loading_is_used(says, monkeypatch):
    says(StillLoading("e5-small is still loading"))
    monkeypatch.setattr(starting, "_serve", lambda *_: pytest.fail("another service was started"))
    monkeypatch.setattr(starting, "applications", lambda: {"embedfleet": {}})
    with starting.started_service("c", "m", None):
        pass


def test_the_service_of_the_job_is_waited_for_until_its_model_has_loaded(monkeypatch):
    states = [None, *[ModelState.STARTING] * 3, ModelState.READY]
    monkeypatch.setattr(starting, "_state", lambda *_: states.pop(0))
    monkeypatch.setattr(starting, "_running_ray", lambda address: None)
    monkeypatch.setattr(starting.time, "sleep", lambda _: None)
    for module in (starting.serve, starting.ray):
        monkeypatch.setattr(module, "shutdown", lambda: None)
    child = SimpleNamespace(poll=lambda: None, send_signal=lambda _: None, wait=lambda _: None)
    monkeypatch.setattr(starting, "_serve", lambda *_: child)
    with starting.started_service("c", "m", None):
        assert states == []


# a service as `cluster/service/serve.py` runs it, whose own child stops at no signal
STUBBORN = """
import signal, subprocess, sys
from cluster.service.serve import _Stop

deaf = '''
import signal, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
'''
stop = _Stop()
child = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, process_group=0)
stop.passes_on_to(child)
child.stdout.readline()
print(child.pid, flush=True)
sys.exit(child.wait())
"""


def test_a_service_that_does_not_stop_is_killed_with_its_child(monkeypatch):
    monkeypatch.setattr(starting, "_STOP_TIMEOUTS_S", (0.5, 0.5, 30.0))
    command = [sys.executable, "-c", STUBBORN]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0)
    assert service.stdout is not None
    child = int(service.stdout.readline())
    starting._stop(service)
    assert service.returncode not in (None, -signal.SIGKILL)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_ctrl_c_hurries_the_end():
    class Slow:
        def __init__(self):
            self.got = []

        def send_signal(self, number):
            self.got.append(number)

        def wait(self, timeout):
            if len(self.got) == 1:
                raise KeyboardInterrupt

    service = Slow()
    starting._stop(service)
    assert service.got == [signal.SIGTERM] * 2


@pytest.fixture
def ended(monkeypatch):
    """What happens at the end of `started_service` on a Ray that goes on, in turn; nothing runs."""
    events: list[str] = []
    monkeypatch.setattr(starting, "_state", lambda *_: None)
    monkeypatch.setattr(starting, "_running_ray", lambda address: "here:1")
    monkeypatch.setattr(starting, "_serve", lambda config, address: None)
    monkeypatch.setattr(starting, "_wait", lambda *_: None)
    monkeypatch.setattr(starting, "_stop", lambda child: events.append("stop"))
    monkeypatch.setattr(starting, "join", lambda address: None)
    for module, name in ((starting.serve, "clear"), (starting.ray, "leave")):
        monkeypatch.setattr(module, "shutdown", lambda name=name: events.append(name))
    return events


def interrupted():
    raise KeyboardInterrupt


def test_the_service_ends_with_the_job(ended):
    with starting.started_service("c", "m", None):
        assert ended == []
    assert ended == ["clear", "leave", "stop"]


@pytest.mark.parametrize(
    ("module", "left"), [("serve", ["leave", "stop"]), ("ray", ["clear", "stop"])]
)
def test_ctrl_c_again_does_not_keep_the_service(ended, monkeypatch, capsys, module, left):
    monkeypatch.setattr(getattr(starting, module), "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt), starting.started_service("c", "m", None):
        raise KeyboardInterrupt
    assert ended == left
    said = capsys.readouterr().err
    assert ("may still run on here:1" in said) == (module == "serve")


def test_a_service_that_is_not_ready_ends_as_well(ended, monkeypatch):
    def late(*_):
        raise JobError("not ready")

    monkeypatch.setattr(starting, "_wait", late)
    with pytest.raises(JobError), starting.started_service("c", "m", None):
        pytest.fail("it is not ready")
    assert ended == ["clear", "leave", "stop"]
