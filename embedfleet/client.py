"""`Client` and `AsyncClient`: a running service over HTTP.

They need neither Ray nor the rest of embedfleet, so that any program may use them.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from embedfleet.errors import SpaceMismatch, Unreachable
from embedfleet.requests import (
    Answer,
    Bounds,
    Piece,
    Priority,
    Role,
    embeddings_of,
    is_from_service,
    joined,
    merged,
    pieces,
    ranking_of,
    refusal,
)
from embedfleet.results import Embeddings, Ranking
from embedfleet.retries import Attempts

DEFAULT_URL = "http://127.0.0.1:8000"

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class _Call:
    """What the requests of one call have in common, also in other threads than the caller's."""

    path: str
    field: str
    fields: dict[str, Any]
    headers: dict[str, str]

    def content(self, piece: Piece, **more: Any) -> bytes:
        return piece.body(self.field, {**self.fields, **more})


class _Base:
    """What both clients do without waiting."""

    def __init__(self, space: str | None, bounds: Bounds, timeout_s: float) -> None:
        if timeout_s <= 0:
            raise ValueError(f"timeout_s must be above 0, not {timeout_s}")
        self._space = space
        self._is_pinned = False
        self._bounds = bounds
        self._timeout_s = timeout_s

    @property
    def space(self) -> str | None:
        """The embedding space of all vectors of this client; None before the first ones."""
        return self._space

    def _attempts(self) -> Attempts:
        return Attempts(time.monotonic() + self._timeout_s)

    def _pinned(self, part: Embeddings) -> Embeddings:
        """Pins the space of the first vectors. Raises SpaceMismatch for those of another one."""
        if not self._is_pinned:
            self._space, self._is_pinned = part.space, True
        elif part.space != self._space:
            raise SpaceMismatch(
                f"{part.model} answered in space {part.space}, but this client holds vectors of space "
                f"{self._space}; use another client for another space",
                409,
                "embedding_space_mismatch",
                "space",
            )
        return part

    def _next(
        self, attempts: Attempts, response: httpx.Response, piece: Piece
    ) -> tuple[Answer | None, float]:
        """Returns a success, or the seconds to wait. Raises ServiceError or UnexpectedAnswer."""
        url, status, headers = str(response.url), response.status_code, response.headers
        answer = Answer(url, status, headers, response.content)
        if response.is_success:
            return answer, 0.0
        known = is_from_service(answer)
        pause = attempts.pause_after_answer(status, headers, known, time.monotonic())
        if pause is None:
            raise refusal(answer, piece)
        return None, pause

    def _pause_after(
        self, attempts: Attempts, error: httpx.TransportError, url: httpx.URL
    ) -> float:
        """Returns the seconds to wait after a lost connection. Raises Unreachable."""
        is_late = isinstance(error, httpx.TimeoutException)
        pause = None if is_late else attempts.pause_after_lost_connection(time.monotonic())
        if pause is not None:
            return pause
        why = f"within {self._timeout_s:g} s" if is_late else f"({error or type(error).__name__})"
        raise Unreachable(
            f"no service answers at {url} {why}; is it running, and is `url` right?"
        ) from error


class Client(_Base):
    """A running service, for programs that wait for each answer. May be shared between threads.

    All its vectors are of one embedding space: that of its first answer, or ``space``. A model that no
    longer answers in it is refused, so vectors that cannot be compared never mix. Use one client for each
    space.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        space: str | None = None,
        timeout_s: float = 120.0,
        concurrency: int = 4,
        bounds: Bounds | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``url`` defaults to EMBEDFLEET_URL, else this machine; ``api_key`` to EMBEDFLEET_API_KEY.

        ``timeout_s`` is the time of one request, with all attempts at it. A call with more texts than
        ``bounds`` allow becomes several requests, of which ``concurrency`` are under way at once. Raises
        ValueError.
        """
        super().__init__(space, bounds or Bounds(), timeout_s)
        self._http = httpx.Client(**_options(url, api_key), transport=transport)
        self._first = threading.Lock()
        self._pool = ThreadPoolExecutor(concurrency, "embedfleet-client")

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncate: bool | None = None,
        priority: Priority | None = None,
    ) -> Embeddings:
        """Returns the vectors of texts. docs/api.md explains the fields; ``role`` is `input_type` there.

        Raises ServiceError (SpaceMismatch for another space than the pinned one), Unreachable,
        UnexpectedAnswer; TypeError or ValueError for what is no text.
        """
        call = _embedding(model, role, instruction, dimensions, truncate, priority)
        return joined(self._all(_listed(texts, "texts", self._bounds), self._embed_one, call))

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        top_n: int | None = None,
        instruction: str | None = None,
        truncate: bool | None = None,
        priority: Priority | None = None,
    ) -> Ranking:
        """Returns documents by their score with the query, best first; the ``top_n`` best if given.

        Raises as `embed`. Scores are not of the pinned space.
        """
        call = _scoring(query, model, top_n, instruction, truncate, priority)
        parts = _listed(documents, "documents", self._bounds)
        first = self._rank_one(call, parts[0])
        rest = self._mapped(self._rank_one, _of_model(call, first.model), parts[1:])
        return merged([first, *rest], top_n)

    def close(self) -> None:
        """Closes the connections."""
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _all(
        self,
        parts: Sequence[Piece],
        one: Callable[[_Call, Piece], Embeddings],
        call: _Call,
    ) -> list[Embeddings]:
        done = []
        if not self._is_pinned:
            with self._first:  # only one answer decides about the space
                if not self._is_pinned:
                    done = [one(call, parts[0])]
        return [*done, *self._mapped(one, call, parts[len(done) :])]

    def _mapped(
        self, one: Callable[[_Call, Piece], ResultT], call: _Call, parts: Sequence[Piece]
    ) -> list[ResultT]:
        if len(parts) < 2:
            return [one(call, part) for part in parts]
        futures = [self._pool.submit(one, call, part) for part in parts]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:  # after an error
                future.cancel()

    def _embed_one(self, call: _Call, piece: Piece) -> Embeddings:
        answer = self._send(call, call.content(piece, space=self._space), piece)
        return self._pinned(embeddings_of(answer, piece))

    def _rank_one(self, call: _Call, piece: Piece) -> Ranking:
        return ranking_of(self._send(call, call.content(piece), piece), piece)

    def _send(self, call: _Call, body: bytes, piece: Piece) -> Answer:
        attempts = self._attempts()
        while True:
            left_s = attempts.left_s(time.monotonic())
            try:
                response = self._http.post(
                    call.path, content=body, headers=call.headers, timeout=left_s
                )
            except httpx.TransportError as error:
                pause = self._pause_after(attempts, error, self._http.base_url)
            else:
                answer, pause = self._next(attempts, response, piece)
                if answer is not None:
                    return answer
            time.sleep(pause)


class AsyncClient(_Base):
    """As `Client`, for programs with an event loop."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        space: str | None = None,
        timeout_s: float = 120.0,
        concurrency: int = 4,
        bounds: Bounds | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """As `Client`; ``concurrency`` is that of one call."""
        super().__init__(space, bounds or Bounds(), timeout_s)
        self._http = httpx.AsyncClient(**_options(url, api_key), transport=transport)
        self._first = asyncio.Lock()
        self._concurrency = concurrency

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        truncate: bool | None = None,
        priority: Priority | None = None,
    ) -> Embeddings:
        """As `Client.embed`."""
        call = _embedding(model, role, instruction, dimensions, truncate, priority)
        parts = _listed(texts, "texts", self._bounds)
        done = []
        if not self._is_pinned:
            async with self._first:
                if not self._is_pinned:
                    done = [await self._embed_one(call, parts[0])]
        return joined([*done, *await self._mapped(self._embed_one, call, parts[len(done) :])])

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str | None = None,
        top_n: int | None = None,
        instruction: str | None = None,
        truncate: bool | None = None,
        priority: Priority | None = None,
    ) -> Ranking:
        """As `Client.rerank`."""
        call = _scoring(query, model, top_n, instruction, truncate, priority)
        parts = _listed(documents, "documents", self._bounds)
        first = await self._rank_one(call, parts[0])
        rest = await self._mapped(self._rank_one, _of_model(call, first.model), parts[1:])
        return merged([first, *rest], top_n)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _mapped(
        self,
        one: Callable[[_Call, Piece], Awaitable[ResultT]],
        call: _Call,
        parts: Sequence[Piece],
    ) -> list[ResultT]:
        slots = asyncio.Semaphore(self._concurrency)

        async def in_turn(part: Piece) -> ResultT:
            async with slots:
                return await one(call, part)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(in_turn(part)) for part in parts]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _embed_one(self, call: _Call, piece: Piece) -> Embeddings:
        answer = await self._send(call, call.content(piece, space=self._space), piece)
        return self._pinned(embeddings_of(answer, piece))

    async def _rank_one(self, call: _Call, piece: Piece) -> Ranking:
        return ranking_of(await self._send(call, call.content(piece), piece), piece)

    async def _send(self, call: _Call, body: bytes, piece: Piece) -> Answer:
        attempts = self._attempts()
        while True:
            left_s = attempts.left_s(time.monotonic())
            try:
                response = await self._http.post(
                    call.path, content=body, headers=call.headers, timeout=left_s
                )
            except httpx.TransportError as error:
                pause = self._pause_after(attempts, error, self._http.base_url)
            else:
                answer, pause = self._next(attempts, response, piece)
                if answer is not None:
                    return answer
            await asyncio.sleep(pause)


def _headers() -> dict[str, str]:
    """Returns the headers of a request, with those of the caller's span if the program makes traces."""
    headers = {"content-type": "application/json"}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.propagate import inject

        inject(headers)
    return headers


def _embedding(
    model: str | None,
    role: Role | None,
    instruction: str | None,
    dimensions: int | None,
    truncate: bool | None,
    priority: Priority | None,
) -> _Call:
    fields = {
        "model": model,
        "input_type": role,
        "instruction": instruction,
        "dimensions": dimensions,
        "truncate": truncate,
        "priority": priority,
        "encoding_format": "base64",
    }
    return _Call("/v1/embeddings", "input", fields, _headers())


def _scoring(
    query: str,
    model: str | None,
    top_n: int | None,
    instruction: str | None,
    truncate: bool | None,
    priority: Priority | None,
) -> _Call:
    fields = {
        "query": query,
        "model": model,
        "top_n": top_n,
        "instruction": instruction,
        "truncate": truncate,
        "priority": priority,
    }
    return _Call("/v1/rerank", "documents", fields, _headers())


def _of_model(call: _Call, model: str) -> _Call:
    """Returns the call to the model that has answered its first request: scores of two do not compare."""
    return replace(call, fields={**call.fields, "model": model})


def _listed(texts: str | Sequence[str], name: str, bounds: Bounds) -> list[Piece]:
    return pieces([texts] if isinstance(texts, str) else texts, name, bounds)


def _options(url: str | None, api_key: str | None) -> dict[str, Any]:
    """Returns the arguments of httpx' clients. Raises ValueError."""
    base = _base_url(url or os.environ.get("EMBEDFLEET_URL") or DEFAULT_URL)
    key = api_key or os.environ.get("EMBEDFLEET_API_KEY")
    headers = {"authorization": b"Bearer " + key.encode()} if key else {}
    # a proxy that the environment names does not reach this machine
    return {"base_url": base, "headers": headers, "trust_env": not _is_loopback(base)}


def _base_url(url: str) -> httpx.URL:
    """Returns the service's URL; the scheme may be missing, and OpenAI's `/v1` may be part of it."""
    whole = url if "://" in url else f"http://{url}"
    try:
        return httpx.URL(whole.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise ValueError(f"url {url!r} is not a URL: {error}") from error


def _is_loopback(url: httpx.URL) -> bool:
    try:
        return ipaddress.ip_address(url.host).is_loopback
    except ValueError:
        return url.host == "localhost"
