"""The store of batches in a bucket."""

from __future__ import annotations

import pytest
from pyarrow import fs as pafs

from deployments.batches.states import FILE_PREFIX, Status, new_id
from deployments.batches.store import Store
from tests.support.batches import OWNER, ended, hurry, ids_of, input_line, results, running, send
from tests.support.object_stores import s3_server


@pytest.fixture
def store(monkeypatch):
    hurry(monkeypatch)
    with s3_server() as address:
        filesystem = pafs.S3FileSystem(
            access_key="key", secret_key="secret", endpoint_override=address, scheme="http"
        )
        yield Store(filesystem, "corpus/batches")


async def answer(body: bytes, tenant: object) -> tuple[int, bytes]:
    return 200, body


async def test_a_batch_in_a_bucket(store):
    ids = [f"{n:03}" for n in range(600)]
    batch_id = send(store, [*map(input_line, ids), b"nonsense"])
    async with running(store, answer):
        batch = await ended(store, batch_id)
    assert batch.status is Status.COMPLETED
    output, errors = results(store, batch)
    assert ids_of(output) == ids
    assert [line["error"]["code"] for line in errors] == ["invalid_json_line"]
    upload = store.upload(new_id(FILE_PREFIX, 1))
    upload.write(b"x")
    upload.drop()
    kept = [batch.input_file_id, batch.output_file_id, batch.error_file_id]
    assert store.files(OWNER) == sorted(kept)
    contents = {store.file(OWNER, file_id).content for file_id in kept}
    assert {info.base_name for info in store._infos("data")} == contents
    store.delete_file(OWNER, kept[0])
    assert store.files(OWNER) == sorted(kept[1:])
    assert store.queue() == {}
