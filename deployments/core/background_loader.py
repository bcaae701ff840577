"""Loads one model in the background, and tries again until that succeeds."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, TypeVar

from deployments.core.errors import EmbedfleetError, ModelUnavailable

log = logging.getLogger(__name__)
RETRY_S = 5.0
T = TypeVar("T")


class NeedsNewProcess(ModelUnavailable):
    """This process can never load the model, so trying again is useless."""

    code = "needs_new_process"


class BackgroundLoader(Generic[T]):
    """A value that is loaded in a thread of its own, and reloaded after a failure.

    Thread-safe. The first load starts at once. A failed load is repeated every ``retry_s``, unless that
    is None or the load raised NeedsNewProcess.
    """

    def __init__(self, load: Callable[[], T], what: str, retry_s: float | None = RETRY_S) -> None:
        self._load = load
        self._what = what
        self._retry_s = retry_s
        self._value: T | None = None
        self._failure: str | None = None
        self._is_final = False
        self._started = time.monotonic()
        self._settled: Future[None] = Future()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"load-{what}", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why the last attempt failed; None while the first one runs and after a success."""
        return self._failure

    @property
    def needs_new_process(self) -> bool:
        """Whether no attempt can succeed in this process, so that none will follow."""
        return self._is_final

    @property
    def value(self) -> T | None:
        """The loaded value, or None."""
        return self._value

    def get(self) -> T:
        """Returns the loaded value. Raises ModelUnavailable with the reason if there is none."""
        if self._value is not None:
            return self._value
        if self._failure is not None:
            raise ModelUnavailable(
                f"{self._what}: {self._failure}", "model", self._retry_s or RETRY_S
            )
        seconds = time.monotonic() - self._started
        raise ModelUnavailable(f"{self._what} is loading ({seconds:.0f} s so far)", "model", 2.0)

    def wait(self, timeout_s: float) -> bool:
        """Waits for the first attempt to end, and returns whether it has."""
        return bool(futures.wait({self._settled}, timeout_s).done)

    async def settled(self, timeout_s: float) -> None:
        """Does the same in an event loop, without a thread for each caller."""
        with suppress(TimeoutError):
            attempt = asyncio.wrap_future(self._settled)
            await asyncio.wait_for(asyncio.shield(attempt), timeout_s)

    def stop(self) -> None:
        """Makes no further attempts."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._value = self._load()
                self._failure = None
                return
            except EmbedfleetError as error:
                self._is_final = isinstance(error, NeedsNewProcess)
                self._failure = error.message
            except Exception as error:
                log.exception("loading %s failed", self._what)
                self._failure = f"{type(error).__name__}: {error}"
            finally:
                if not self._settled.done():
                    self._settled.set_result(None)
            log.warning("%s cannot load: %s", self._what, self._failure)
            if self._retry_s is None or self._is_final:
                return
            self._stop.wait(self._retry_s)
