"""``/v1/files``: the inputs and results of batches, as OpenAI's clients send and fetch them.

A file belongs to the tenant or the API key that sent it. Everybody else gets 404.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deployments.api.auth import tenant_of
from deployments.api.batch_objects import DeletedFile, FileList, FileObject
from deployments.api.downloads import Download, Downloads
from deployments.api.http import NotFound
from deployments.api.paging import json_response, list_page
from deployments.api.uploads import receive
from deployments.batches.states import EVERYONE, FILE_PREFIX, new_id
from deployments.batches.store import Store
from deployments.batches.threads import StoreThreads
from deployments.config.schema import BatchesConfig
from deployments.core.errors import InvalidRequest, StoreFailed
from deployments.core.tenants.tenant import ANYONE

PURPOSE = "batch"
_LISTED, _MOST_LISTED = 100, 10_000
_ANCHOR = "created_at"
_CHUNK_BYTES = 1 << 18
_TTL_S = (3_600, 2_592_000)  # OpenAI's bounds


@dataclass(frozen=True)
class ApiBatches:
    """What the routes of files and batches need."""

    config: BatchesConfig
    store: StoreThreads
    downloads: Downloads = field(default_factory=Downloads)


def batches_of(request: Request) -> tuple[BatchesConfig, StoreThreads, str]:
    """Returns the config, the store, and who the caller is in it. Raises NotFound if batches are off."""
    batches: ApiBatches | None = request.app.state.batches
    if batches is None:
        raise NotFound("batches are off here; add `batches: {}` under `args` in the config")
    return batches.config, batches.store, _owner_of(request)


def _owner_of(request: Request) -> str:
    """Returns whose files these are: a tenant's, whichever of its keys it uses, or a nameless key's.

    Without keys, all callers are one. The store shall not hold keys, so a digest stands for one.
    """
    if (tenant := tenant_of(request)) != ANYONE:
        return f"tenant-{tenant.name}"
    if not request.app.state.keys:
        return EVERYONE
    key = request.headers.get("authorization", "").partition(" ")[2].strip(" ")
    return f"key-{hashlib.sha256(key.encode('latin-1')).hexdigest()[:32]}"


async def create_file(request: Request) -> Response:
    """Writes a file to the store while it arrives."""
    config, store, owner = batches_of(request)
    now = time.time()
    upload = await store(Store.upload, new_id(FILE_PREFIX, now))
    try:
        filename, fields = await receive(request, store, upload, config.max_file_bytes)
        if (purpose := fields.get("purpose")) != PURPOSE:
            raise InvalidRequest(
                f"`purpose` must be {PURPOSE!r}, not {purpose!r}: files are for batches here",
                "purpose",
            )
        ttl_s = _ttl_of(fields, config.retention_s)
        info = await store.run(partial(upload.keep, owner, filename, purpose, now, ttl_s))
    except BaseException:
        with suppress(StoreFailed):
            await store.run(upload.drop)
        raise
    return json_response(FileObject.of(info))


async def list_files(request: Request) -> Response:
    """Lists the caller's files, of one ``purpose`` if it is given."""
    _, store, owner = batches_of(request)
    purpose = request.query_params.get("purpose")

    async def read(file_id: str) -> FileObject | None:
        info = await store(Store.file, owner, file_id)
        return FileObject.of(info) if purpose in (None, info.purpose) else None

    ids = await store(Store.files, owner)
    return await list_page(request, FileList, ids, read, _LISTED, _MOST_LISTED)


async def show_file(request: Request) -> Response:
    """Shows what is known of a file."""
    _, store, owner = batches_of(request)
    return json_response(FileObject.of(await store(Store.file, owner, request.path_params["id"])))


async def file_content(request: Request) -> Response:
    """Sends the content of a file, chunk by chunk."""
    _, store, owner = batches_of(request)
    downloads: Downloads = request.app.state.batches.downloads
    place = downloads.enter(owner)
    try:
        info = await store(Store.file, owner, request.path_params["id"])
        file = await store(Store.open, info)
    except BaseException:
        downloads.leave(place)
        raise
    return Download(_chunks(store, file), info.bytes, downloads, place)


async def _chunks(store: StoreThreads, file: Any) -> AsyncIterator[bytes]:
    with closing(file):
        while chunk := await store.run(partial(file.read, _CHUNK_BYTES)):
            yield chunk


async def delete_file(request: Request) -> Response:
    """Deletes a file, unless a batch that has not ended reads it."""
    _, store, owner = batches_of(request)
    file_id = request.path_params["id"]
    await store(_delete, owner, file_id)
    return json_response(DeletedFile(id=file_id))


def _delete(store: Store, owner: str, file_id: str) -> None:
    for batch_id, queued_by in store.queue().items():
        if queued_by == owner and store.batch(owner, batch_id).input_file_id == file_id:
            raise InvalidRequest(
                f"{batch_id} still reads this file; wait for it, or cancel it first", "file_id"
            )
    store.delete_file(owner, file_id)


def _ttl_of(fields: Mapping[str, str], most: int) -> int:
    """Returns for how long a file is kept. Raises InvalidRequest."""
    if fields.get("expires_after[anchor]", _ANCHOR) != _ANCHOR:
        raise InvalidRequest(f"`expires_after[anchor]` must be {_ANCHOR!r}", "expires_after")
    if (seconds := fields.get("expires_after[seconds]")) is None:
        return most
    low, high = _TTL_S[0], min(_TTL_S[1], most)
    is_number = seconds.isascii() and seconds.isdigit() and len(seconds) < 9
    if not is_number or not low <= int(seconds) <= high:
        raise InvalidRequest(
            f"`expires_after[seconds]` must be a number from {low} to {high}", "expires_after"
        )
    return int(seconds)
