"""What a job says when the service is there and does not answer."""

from __future__ import annotations

import pytest
from ray.exceptions import AuthenticationError, RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException

from cluster.encoding import target
from cluster.encoding.failures import JobError, WrongModel


@pytest.fixture
def fails(monkeypatch):
    """Sets what asking the service raises."""

    def raises(error: Exception) -> None:
        async def served(app, model):
            raise error

        monkeypatch.setattr(target, "_application", lambda: "app")
        monkeypatch.setattr(target, "_served", served)

    return raises


@pytest.mark.parametrize(
    "error", [TimeoutError(), OSError("gone"), RayActorError(), RayServeException("no app")]
)
def test_a_service_that_does_not_answer_now_may_later(fails, error):
    fails(error)
    with pytest.raises(JobError, match=r"does not answer \(.*serve status") as said:
        target.find_target("m")
    assert not isinstance(said.value, WrongModel)


@pytest.mark.parametrize("cause", [ValueError("a bug"), TimeoutError("a bug")])
def test_what_fails_within_the_service_is_not_waited_for(fails, cause):
    fails(RayTaskError("served", "trace", cause).as_instanceof_cause())
    with pytest.raises(WrongModel, match=r"cannot say what it serves: \w+Error\('a bug'\)"):
        target.find_target("m")


def test_a_token_that_is_wanted_is_said(fails, monkeypatch):
    error = AuthenticationError("the token is missing")
    fails(error)
    with pytest.raises(WrongModel, match="the token is missing"):
        target.find_target("m")

    def refuses(**_):
        raise error

    monkeypatch.setattr(target.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(target.ray, "init", refuses)
    with pytest.raises(WrongModel, match=r"its token: the token is missing"):
        target.connect(None)
