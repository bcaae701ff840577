"""A value that is loaded in the background, and again after a failure."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest

from deployments.core.background_loader import BackgroundLoader, NeedsNewProcess
from deployments.core.errors import ModelUnavailable, UnsupportedModel

PATIENCE_S = 10.0


class Loader:
    """Fails as often as told, then loads; each attempt waits until it is let go."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.attempts = 0
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self) -> str:
        self.attempts += 1
        self.begun.release()
        assert self.go.acquire(timeout=PATIENCE_S)
        if self.failures:
            raise self.failures.pop(0)
        return "the model"

    def attempt(self, times: int = 1) -> None:
        """Lets an attempt end."""
        for _ in range(times):
            assert self.begun.acquire(timeout=PATIENCE_S)
            self.go.release()


@contextmanager
def hosted(loader, retry_s=0.0):
    actual = BackgroundLoader(loader, "tiny", retry_s)
    try:
        yield actual
    finally:
        actual.stop()
        loader.go.release(9)
        end(actual)


def end(actual):
    """Waits until the loading thread is through."""
    actual._thread.join(PATIENCE_S)
    assert not actual._thread.is_alive()


def test_a_value_is_there_once_loaded():
    loader = Loader()
    with hosted(loader) as actual:
        loader.attempt()
        assert actual.wait(PATIENCE_S)
        assert (actual.get(), actual.value, actual.failure) == ("the model", "the model", None)
        end(actual)
    assert loader.attempts == 1


def test_while_it_loads_a_caller_is_told_so():
    with hosted(Loader()) as actual:
        assert not actual.wait(0)
        assert (actual.value, actual.failure) == (None, None)
        with pytest.raises(ModelUnavailable, match=r"tiny is loading \(\d+ s so far\)") as waits:
            actual.get()
    assert (waits.value.param, waits.value.retry_after_s) == ("model", 2.0)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelUnavailable("the hub cannot be reached"), "the hub cannot be reached"),
        (UnsupportedModel("pooling max"), "pooling max"),
        (KeyError("config"), "KeyError: 'config'"),
        (MemoryError("no room"), "MemoryError: no room"),
        (RuntimeError(), "RuntimeError: "),
    ],
)
def test_a_failure_is_said_until_it_is_gone(error, reason):
    loader = Loader(error)
    with hosted(loader) as actual:
        loader.attempt()
        assert loader.begun.acquire(timeout=PATIENCE_S)  # the second attempt: the first has failed
        assert actual.wait(0)
        assert (actual.failure, actual.value) == (reason, None)
        with pytest.raises(ModelUnavailable, match="tiny: ") as refused:
            actual.get()
        assert refused.value.message == f"tiny: {reason}"
        assert refused.value.param == "model"
        loader.go.release()
        end(actual)
        assert (actual.get(), actual.failure) == ("the model", None)


def test_it_tries_again_until_it_succeeds():
    loader = Loader(*[ModelUnavailable("no")] * 4)
    with hosted(loader) as actual:
        loader.attempt(times=5)
        end(actual)
        assert actual.value == "the model"
    assert loader.attempts == 5


def test_what_needs_a_new_process_is_not_tried_again():
    loader = Loader(ModelUnavailable("no"), NeedsNewProcess("CUDA does not start"))
    with hosted(loader) as actual:
        loader.attempt()
        assert loader.begun.acquire(timeout=PATIENCE_S)
        assert not actual.needs_new_process
        loader.go.release()
        end(actual)
        assert (actual.needs_new_process, actual.failure) == (True, "CUDA does not start")
    assert loader.attempts == 2


def test_a_caller_is_told_when_the_next_attempt_comes():
    loader = Loader(ModelUnavailable("no"))
    with hosted(loader, retry_s=600.0) as actual:
        loader.attempt()
        assert actual.wait(PATIENCE_S)
        with pytest.raises(ModelUnavailable) as refused:
            actual.get()
        assert refused.value.retry_after_s == 600.0


def test_stop_gives_up_further_attempts():
    loader = Loader(*[ModelUnavailable("no")] * 9)
    with hosted(loader, retry_s=600.0) as actual:
        loader.attempt()
        assert actual.wait(PATIENCE_S)
        actual.stop()
        end(actual)
        assert actual.failure == "no"
    assert loader.attempts == 1
