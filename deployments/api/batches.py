"""``/v1/batches``: OpenAI's Batch API. The routes read and write the store, and the runner works."""

from __future__ import annotations

import threading
import time
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from deployments.api.auth import tenant_of
from deployments.api.batch_objects import BatchList, BatchObject
from deployments.api.bodies import read_request
from deployments.api.files import PURPOSE, batches_of
from deployments.api.paging import json_response, list_page
from deployments.api.requests import Body, Name
from deployments.batches.states import (
    BATCH_PREFIX,
    COMPLETION_S,
    Batch,
    Rights,
    Status,
    new_id,
)
from deployments.batches.store import Store
from deployments.core.errors import InvalidRequest, StoreFailed, UnknownObject

_LISTED, _MOST_LISTED = 20, 100
Key = Annotated[str, Field(max_length=64)]
Value = Annotated[str, Field(max_length=512)]


class ExpiresAfter(BaseModel):
    """How long the results of a batch are kept."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    anchor: Literal["created_at"]
    seconds: int = Field(ge=3_600, le=2_592_000)


class BatchRequest(Body):
    """``POST /v1/batches``."""

    texts_field: ClassVar[str] = "metadata"

    input_file_id: Name
    endpoint: Literal["/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[Key, Value], Field(max_length=16)] | None = None
    output_expires_after: ExpiresAfter | None = None


async def create_batch(request: Request) -> Response:
    """Queues a batch."""
    config, store, owner = batches_of(request)
    limits = request.app.state.limits
    body = await read_request(BatchRequest, request, limits, limits.deadline())
    now, wanted = time.time(), body.output_expires_after
    if wanted and wanted.seconds > config.retention_s:
        raise InvalidRequest(
            f"`output_expires_after.seconds` may be {config.retention_s} at most here",
            "output_expires_after",
        )
    batch = Batch(
        id=new_id(BATCH_PREFIX, now),
        owner=owner,
        input_file_id=body.input_file_id,
        endpoint=body.endpoint,
        created_at=int(now),
        expires_at=int(now) + COMPLETION_S,
        output_ttl_s=wanted.seconds if wanted else config.retention_s,
        rights=Rights.of(tenant_of(request)),
        metadata=body.metadata,
    )
    given_up = threading.Event()  # its thread may go on when the client has its error
    try:
        await store(_create, batch, config.max_batches, given_up)
    except BaseException:
        given_up.set()
        raise
    return json_response(BatchObject.of(batch))


def _create(store: Store, batch: Batch, most: int, given_up: threading.Event) -> None:
    try:
        file = store.file(batch.owner, batch.input_file_id)
    except UnknownObject as error:
        raise UnknownObject(error.message, "input_file_id") from None
    if file.purpose != PURPOSE:
        raise InvalidRequest(
            f"the file {file.id} has the purpose {file.purpose!r}; send the input with {PURPOSE!r}",
            "input_file_id",
        )

    def check() -> None:
        if given_up.is_set():
            raise StoreFailed("the store took too long to create the batch")

    store.create_batch(batch, most, check)


async def list_batches(request: Request) -> Response:
    """Lists the caller's batches."""
    _, store, owner = batches_of(request)

    async def read(batch_id: str) -> BatchObject:
        return await store(_show, owner, batch_id)

    ids = await store(Store.batches, owner)
    return await list_page(request, BatchList, ids, read, _LISTED, _MOST_LISTED)


async def show_batch(request: Request) -> Response:
    """Shows a batch."""
    _, store, owner = batches_of(request)
    return json_response(await store(_show, owner, request.path_params["id"]))


async def cancel_batch(request: Request) -> Response:
    """Has a batch stop. What is answered until then is in its output file."""
    _, store, owner = batches_of(request)
    return json_response(await store(_cancel, owner, request.path_params["id"], time.time()))


def _cancel(store: Store, owner: str, batch_id: str, now: float) -> BatchObject:
    batch = store.batch(owner, batch_id)
    if not batch.may_be_cancelled and batch.status is not Status.CANCELLING:
        raise InvalidRequest(
            f"{batch_id} is {batch.status} and cannot be cancelled any more", "batch_id"
        )
    store.ask_to_cancel(batch_id, now)
    return _show(store, owner, batch_id)


def _show(store: Store, owner: str, batch_id: str) -> BatchObject:
    """Returns a batch as its owner sees it: its runner may not know yet that it is cancelled."""
    batch = store.batch(owner, batch_id)
    if batch.may_be_cancelled and (at := store.cancelled_at(batch.id)) is not None:
        batch = batch.moved(Status.CANCELLING, at)
    return BatchObject.of(batch)
