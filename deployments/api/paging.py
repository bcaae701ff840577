"""Lists objects page by page, as OpenAI does: the ids that follow ``after``, at most ``limit``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deployments.api.http import JSON
from deployments.api.responses import dump
from deployments.core.errors import DeadlineExceeded, InvalidRequest

_AT_ONCE = 32
Read = Callable[[str], Awaitable[dict[str, Any] | None]]


async def list_page(
    request: Request, ids: Iterable[str], read: Read, default: int, most: int
) -> Response:
    """Answers with the objects of these ids, which sort by time, the newest first unless ``order`` is
    ``asc``. ``read`` returns an object; None if it is not part of the list.

    Raises InvalidRequest, DeadlineExceeded, and what ``read`` raises.
    """
    params, limit = request.query_params, _limit(request, default, most)
    if (order := params.get("order", "desc")) not in ("asc", "desc"):
        raise InvalidRequest("`order` must be 'asc' or 'desc'", "order")
    ids = sorted(ids, reverse=order == "desc")
    if (after := params.get("after")) is not None:
        ids = [i for i in ids if (i > after if order == "asc" else i < after)]
    try:
        async with asyncio.timeout(request.app.state.limits.request_timeout_s):
            objects = await _read(ids, read, limit + 1)
    except TimeoutError:
        raise DeadlineExceeded("the list takes too long to read; lower `limit`", "limit") from None
    return json_response(_page(objects[:limit], has_more=len(objects) > limit))


async def _read(ids: list[str], read: Read, most: int) -> list[dict[str, Any]]:
    """Returns the first objects, several of which are read at once."""
    objects: list[dict[str, Any]] = []
    for start in range(0, len(ids), _AT_ONCE):
        some = await asyncio.gather(*map(read, ids[start : start + _AT_ONCE]))
        objects += [o for o in some if o is not None]
        if len(objects) >= most:
            break
    return objects[:most]


def _limit(request: Request, default: int, most: int) -> int:
    text = request.query_params.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise InvalidRequest(f"`limit` must be a number from 1 to {most}", "limit")
    return int(text)


def _page(objects: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": objects,
        "has_more": has_more,
        "first_id": objects[0]["id"] if objects else None,
        "last_id": objects[-1]["id"] if objects else None,
    }


def json_response(body: dict[str, Any]) -> Response:
    """Answers 200 with an object."""
    return Response(dump(body), media_type=JSON)
