"""``/v1/files``: the inputs and results of batches, as OpenAI's clients send and fetch them.

A file belongs to the tenant or the API key that sent it. Everybody else gets 404.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from deployments.api.auth import tenant_of
from deployments.api.http import JSON, NotFound
from deployments.api.responses import dump
from deployments.api.uploads import receive
from deployments.batches.states import FileInfo
from deployments.batches.store import Store
from deployments.config.schema import BatchesConfig
from deployments.core.errors import InvalidRequest, StoreFailed, UnknownObject
from deployments.core.tenants.tenant import ANYONE

PURPOSE = "batch"
_MOST_LISTED, _LISTED = 10_000, 100
_CHUNK_BYTES = 1 << 18
_TTL_S = (3_600, 2_592_000)  # OpenAI's bounds


@dataclass(frozen=True)
class ApiBatches:
    """What the routes of files and batches need; without a store, ``problem`` says why."""

    config: BatchesConfig
    store: Store | None
    problem: StoreFailed | None = None


def batches_of(request: Request) -> tuple[BatchesConfig, Store, str]:
    """Returns the config, the store, and who the caller is in it.

    Raises NotFound if batches are off, StoreFailed if there is no store.
    """
    batches: ApiBatches | None = request.app.state.batches
    if batches is None:
        raise NotFound("batches are off here; add `batches: {}` under `args` in the config")
    if batches.store is None:
        raise batches.problem or StoreFailed("there is no store of batches")
    return batches.config, batches.store, _owner_of(request)


def _owner_of(request: Request) -> str:
    """Returns whose files these are: a tenant's, whichever of its keys it uses, or a nameless key's.

    Without keys, all callers are one. The store shall not hold keys, so a digest stands for one.
    """
    if (tenant := tenant_of(request)) != ANYONE:
        return f"tenant-{tenant.name}"
    if not request.app.state.keys:
        return "everyone"
    key = request.headers.get("authorization", "").partition(" ")[2].strip(" ")
    return f"key-{hashlib.sha256(key.encode('latin-1')).hexdigest()[:32]}"


async def create_file(request: Request) -> Response:
    """Writes a file to the store while it arrives."""
    config, store, owner = batches_of(request)
    now = time.time()
    upload = await asyncio.to_thread(store.upload, now)
    try:
        filename, fields = await receive(request, upload, config.max_file_bytes)
        if (purpose := fields.get("purpose")) != PURPOSE:
            raise InvalidRequest(
                f"`purpose` must be {PURPOSE!r}, not {purpose!r}: files are for batches here",
                "purpose",
            )
        ttl_s = _ttl_of(fields.get("expires_after[seconds]"), config.retention_s)
        info = await asyncio.to_thread(upload.keep, owner, filename, purpose, now, ttl_s)
    except BaseException:
        await asyncio.to_thread(upload.drop)
        raise
    return _json(_file_object(info))


async def list_files(request: Request) -> Response:
    """Lists the caller's files, the newest first unless ``order`` is ``asc``."""
    _, store, owner = batches_of(request)
    return _json(await asyncio.to_thread(_listed_files, request, store, owner))


async def show_file(request: Request) -> Response:
    """Shows what is known of a file."""
    _, store, owner = batches_of(request)
    info = await asyncio.to_thread(store.file, owner, request.path_params["id"])
    return _json(_file_object(info))


async def file_content(request: Request) -> Response:
    """Sends the content of a file, chunk by chunk."""
    _, store, owner = batches_of(request)
    info = await asyncio.to_thread(store.file, owner, request.path_params["id"])
    file = await asyncio.to_thread(store.open, info.id)
    headers = {"content-length": str(info.bytes)}
    return StreamingResponse(_chunks(file), headers=headers, media_type="application/jsonl")


async def delete_file(request: Request) -> Response:
    """Deletes a file, unless a batch that has not ended reads it."""
    _, store, owner = batches_of(request)
    file_id = request.path_params["id"]
    await asyncio.to_thread(_delete, store, owner, file_id)
    return _json({"id": file_id, "object": "file", "deleted": True})


def _delete(store: Store, owner: str, file_id: str) -> None:
    queued = set(store.queue())
    for batch_id in (b for b in store.batches(owner) if b in queued):
        if store.batch(owner, batch_id).input_file_id == file_id:
            raise InvalidRequest(
                f"{batch_id} still reads this file; wait for it, or cancel it first", "file_id"
            )
    store.delete_file(owner, file_id)


async def _chunks(file: Any) -> AsyncIterator[bytes]:
    with closing(file):
        while chunk := await asyncio.to_thread(file.read, _CHUNK_BYTES):
            yield chunk


def _listed_files(request: Request, store: Store, owner: str) -> dict[str, Any]:
    params = request.query_params
    if (order := params.get("order", "desc")) not in ("asc", "desc"):
        raise InvalidRequest("`order` must be 'asc' or 'desc'", "order")
    limit = limit_of(request, _LISTED, _MOST_LISTED)
    ids = following(store.files(owner), params.get("after"), is_rising=order == "asc")
    wanted = params.get("purpose")
    infos = (i for i in _infos(store, owner, ids) if wanted in (None, i.purpose))
    return page([_file_object(info) for info in islice(infos, limit + 1)], limit)


def _infos(store: Store, owner: str, ids: Sequence[str]) -> Iterator[FileInfo]:
    for file_id in ids:
        with suppress(UnknownObject):  # it was deleted meanwhile
            yield store.file(owner, file_id)


def following(ids: Sequence[str], after: str | None, *, is_rising: bool = False) -> list[str]:
    """Returns the ids, which sort by time, that come ``after`` one: older ones, or newer if rising."""
    if is_rising:
        return [i for i in sorted(ids) if after is None or i > after]
    return [i for i in sorted(ids, reverse=True) if after is None or i < after]


def limit_of(request: Request, default: int, most: int) -> int:
    """Returns the query's ``limit``. Raises InvalidRequest."""
    text = request.query_params.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise InvalidRequest(f"`limit` must be a number from 1 to {most}", "limit")
    return int(text)


def page(objects: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Returns the first ``limit`` objects as OpenAI lists them; one more says that there are others."""
    shown = list(objects[:limit])
    return {
        "object": "list",
        "data": shown,
        "has_more": len(objects) > limit,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }


def _ttl_of(seconds: str | None, most: int) -> int:
    """Returns for how long a file is kept. Raises InvalidRequest."""
    if seconds is None:
        return most
    low, high = _TTL_S[0], min(_TTL_S[1], most)
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 9) or not (
        low <= int(seconds) <= high
    ):
        raise InvalidRequest(
            f"`expires_after[seconds]` must be a number from {low} to {high}", "expires_after"
        )
    return int(seconds)


def _file_object(info: FileInfo) -> dict[str, Any]:
    return {**asdict(info), "object": "file", "status": "processed"}


def _json(body: dict[str, Any]) -> Response:
    return Response(dump(body), media_type=JSON)
