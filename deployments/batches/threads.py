"""Calls of the store from an event loop: in threads of their own, each with a deadline.

A file system may hang for minutes, such as NFS whose server is gone. These threads are separate from the
event loop's default pool, which tokenizes and reads large bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from deployments.batches.store import Store
from deployments.core.errors import StoreSilent

_THREADS, _ANSWER_S = 8, 30.0
_RETRY_AFTER_S = 10.0
P = ParamSpec("P")
R = TypeVar("R")


class StoreThreads:
    """A store that is opened by the first call which needs it, or by a later one if that fails."""

    def __init__(
        self, opening: Callable[[], Store], threads: int = _THREADS, answer_s: float = _ANSWER_S
    ) -> None:
        """Runs ``threads`` calls at once, and waits ``answer_s`` seconds for each."""
        self._opening = opening
        self._store: Store | None = None
        self._most = threads
        self._answer_s = answer_s
        self._pool = ThreadPoolExecutor(threads, "store")
        self._late: set[Future[Any]] = set()

    def beside(self, threads: int, answer_s: float) -> StoreThreads:
        """Returns further threads for the same store, which its other calls cannot keep waiting."""
        return StoreThreads(self._opened, threads, answer_s)

    async def __call__(
        self, call: Callable[Concatenate[Store, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Returns what ``call`` returns for the store and these arguments.

        Raises what it raises, StoreFailed if the store cannot be opened, and StoreSilent.
        """
        return await self.run(lambda: call(self._opened(), *args, **kwargs))

    async def run(self, call: Callable[[], R]) -> R:
        """Returns what a call returns that needs no store, such as one of an upload.

        Raises what it raises, and StoreSilent if it takes too long; it may still succeed then.
        """
        self._late = {future for future in self._late if not future.done()}
        if len(self._late) == self._most:
            raise self._silent()
        future = self._pool.submit(call)
        try:
            async with asyncio.timeout(self._answer_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if not future.cancelled():  # else it had not begun
                self._late.add(future)
            raise self._silent() from None

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._opening()
        return self._store

    def _silent(self) -> StoreSilent:
        name = f" ({self._store})" if self._store else ""
        return StoreSilent(
            f"the store of batches{name} has not answered within {self._answer_s:g} s; retry later, and "
            "see `batches.store` in the config",
            retry_after_s=_RETRY_AFTER_S,
        )
