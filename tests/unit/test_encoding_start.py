"""The service of `--start`: what is waited out until it answers."""

from __future__ import annotations

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.encoding import starting
from cluster.encoding.failures import JobError, WrongModel


@pytest.fixture
def says(monkeypatch):
    """Sets what the service raises when it is asked for the model."""

    def find(error: Exception) -> None:
        def raises(_):
            raise error

        monkeypatch.setattr(starting, "connect", lambda address: None)
        monkeypatch.setattr(starting, "find_target", raises)
        monkeypatch.setattr(starting.ray, "shutdown", lambda: None)

    return find


@pytest.mark.parametrize(
    "error",
    [JobError("no Ray"), RayServeException("no app"), RayActorError(), TimeoutError(), OSError()],
)
def test_a_half_started_service_is_waited_for(says, error):
    says(error)
    assert starting._answers("m", None) is False


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
        starting._answers("m", None)
