"""Reads a request's body: its headers, its size, and a first look before it is parsed as JSON."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import numpy.typing as npt
from starlette.requests import Request

from deployments.api.http import ApiLimits
from deployments.api.requests import BodyT, parse
from deployments.core.awaiting import aside
from deployments.core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    InvalidRequest,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from deployments.traces.spans import span

_MAX_DISCARDED_BYTES = 64_000_000
_SMALL_BYTES = 32_768  # whatever it holds, it is parsed within about 10 ms
_LARGE_BYTES = 524_288
_MAX_VALUES = 262_144  # of token ids, or of anything else that is not in a string
_OTHER_OBJECTS = 1_024  # beside texts: metadata and the like
_QUOTE, _BACKSLASH, _COMMA, _BRACKET, _BRACE = b'"\\,[{'


async def read_request(
    kind: type[BodyT], request: Request, limits: ApiLimits, deadline: float
) -> BodyT:
    """Returns the body of a request, parsed. Raises as `read_body` and `parse`."""
    with span("read"):
        body = await read_body(request, limits, deadline)
        if len(body) <= _SMALL_BYTES:
            return parse(kind, body)
        return await parse_large(kind, body, request)


async def parse_large(kind: type[BodyT], body: bytes, request: Request) -> BodyT:
    """Returns a body of any size, parsed. Raises as `parse`, and for one that holds too many values."""
    limits: ApiLimits = request.app.state.limits
    await aside(len(body) > _LARGE_BYTES, check_values, body, limits.max_texts, kind.texts_field)
    if len(body) <= _LARGE_BYTES:
        return parse(kind, body)
    parsing: asyncio.Lock = request.app.state.parsing
    async with parsing:  # at most one large body is parsed in each turn of the event loop
        return parse(kind, body)


async def read_body(request: Request, limits: ApiLimits, deadline: float) -> bytes:
    """Returns the body.

    Raises UnsupportedMediaType, UnsupportedEncoding, BodyTooLarge, and BodyTooSlow if it does not
    arrive before the deadline.
    """
    _check_headers(request)
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await _read(request, limits.max_body_bytes)
    except TimeoutError:
        raise BodyTooSlow(
            f"the body had not arrived after {limits.request_timeout_s:g} s; send fewer texts per "
            "request, or raise `limits.request_timeout_s` in the config"
        ) from None


def _check_headers(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise UnsupportedEncoding(f"the body is compressed ({encoding}); send it uncompressed")
    # a page of another site may send a body of any other type without asking the browser's user
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        sent = f"is {kind!r}" if kind else "is missing"
        raise UnsupportedMediaType(
            f"the header content-type {sent}; send JSON with `content-type: application/json`",
            "content-type",
        )


async def _read(request: Request, limit: int) -> bytes:
    # a body over the limit is read on and discarded: a client that is still sending would see a
    # broken connection instead of the answer
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > max(limit, _MAX_DISCARDED_BYTES):
            break
    if size > limit:
        raise BodyTooLarge(
            f"the body is over {limit} bytes; send fewer texts per request, or raise "
            "`limits.max_body_bytes` in the config"
        )
    return b"".join(chunks)


def check_values(body: bytes, max_texts: int, field: str) -> None:
    """Raises InvalidRequest for a body of so many values that parsing it would hold the event loop.

    numpy lets other threads run meanwhile, as a JSON parser does not.
    """
    lists, objects, values = count_values(body)
    if max(lists, objects) > max_texts + _OTHER_OBJECTS or values > max(_MAX_VALUES, max_texts):
        raise InvalidRequest(
            f"the body holds {lists} lists, {objects} objects and {values} values, but a request may "
            f"hold at most {max_texts} texts and {_MAX_VALUES} token ids; send several requests",
            field,
        )


def count_values(body: bytes) -> tuple[int, int, int]:
    """Returns how many lists, objects and values separated by commas stand outside of strings."""
    characters = np.frombuffer(body, np.uint8)
    quotes = np.flatnonzero(characters == _QUOTE)
    quotes = quotes[~_are_escaped(characters, quotes)]
    toggles = np.zeros(len(characters), np.bool_)
    toggles[quotes] = True
    outside = ~np.logical_xor.accumulate(toggles)

    def count(character: int) -> int:
        return int(np.count_nonzero((characters == character) & outside))

    return count(_BRACKET), count(_BRACE), count(_COMMA) + 1


def _are_escaped(
    characters: npt.NDArray[np.uint8], quotes: npt.NDArray[np.intp]
) -> npt.NDArray[np.bool_]:
    """Returns for each quote whether an odd number of backslashes stands before it."""
    other = np.flatnonzero(characters != _BACKSLASH)
    place = np.searchsorted(other, quotes)
    before = np.where(place > 0, other[place - 1], -1)
    odd: npt.NDArray[np.bool_] = (quotes - before - 1) % 2 == 1
    return odd
