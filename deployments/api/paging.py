"""Lists objects page by page, as OpenAI does: those that follow ``after``, at most ``limit``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.batch_objects import BatchObject, FileObject, Page
from deployments.api.http import JSON
from deployments.api.responses import dump
from deployments.core.errors import (
    DeadlineExceeded,
    InvalidRequest,
    StoreDamaged,
    UnknownObject,
)

log = logging.getLogger("ray.serve")
_AT_ONCE = 32
T = TypeVar("T", FileObject, BatchObject)
Read = Callable[[str], Awaitable[T | None]]


async def list_page(  # noqa: PLR0913, PLR0917
    request: Request, kind: type[Page], ids: Iterable[str], read: Read[T], default: int, most: int
) -> Response:
    """Answers with the objects of these ids, which sort by time, the newest first unless ``order`` is
    ``asc``. ``read`` returns an object; None if it is not part of the list. Objects that are gone or
    damaged are left out.

    Raises InvalidRequest, DeadlineExceeded, and what else ``read`` raises.
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
    shown = objects[:limit]
    first_id, last_id = (shown[0].id, shown[-1].id) if shown else (None, None)
    fields = {"data": shown, "first_id": first_id, "last_id": last_id}
    return json_response(kind(has_more=len(objects) > limit, **fields))


async def _read(ids: list[str], read: Read[T], most: int) -> list[T]:
    """Returns the first objects, several of which are read at once."""
    objects: list[T] = []
    for start in range(0, len(ids), _AT_ONCE):
        some = await asyncio.gather(*(_unless_gone(read, i) for i in ids[start : start + _AT_ONCE]))
        objects += [o for o in some if o is not None]
        if len(objects) >= most:
            break
    return objects[:most]


async def _unless_gone(read: Read[T], object_id: str) -> T | None:
    """Leaves out of a list what has just been deleted, and what is damaged, which it logs."""
    try:
        return await read(object_id)
    except UnknownObject:
        return None
    except StoreDamaged as error:
        log.warning("a list leaves out one object: %s", error)
        return None


def _limit(request: Request, default: int, most: int) -> int:
    text = request.query_params.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise InvalidRequest(f"`limit` must be a number from 1 to {most}", "limit")
    return int(text)


def json_response(body: BaseModel) -> Response:
    """Answers 200 with an object."""
    return Response(dump(body.model_dump()), media_type=JSON)
