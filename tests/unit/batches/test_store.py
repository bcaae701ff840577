"""The store of files and batches: owners, atomic writes, the queue, and failing file systems."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.batches.states import BATCH_PREFIX, EVERYONE, FILE_PREFIX, Status, new_id
from deployments.batches.store import Store, open_store
from deployments.core.errors import Overloaded, StoreDamaged, StoreFailed, UnknownObject
from tests.support.small_disk import mounted
from tests.unit.batches.test_states import a_batch

MINE, OTHERS = "mine", "others"
TTL_S = 3_600
FILE_ID = new_id(FILE_PREFIX, 9_000)


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(str(tmp_path / "store"))


def keep(store: Store, content: bytes = b"{}\n", now: float = 1_000.0, ttl_s: int = TTL_S) -> str:
    upload = store.upload(new_id(FILE_PREFIX, now))
    upload.write(content)
    return upload.keep(MINE, "a.jsonl", "batch", now, ttl_s).id


def files_of(store: Store) -> set[str]:
    root = store._root
    return {
        os.path.relpath(os.path.join(folder, name), root)
        for folder, _, names in os.walk(root)
        for name in names
    }


def contents_of(store: Store) -> set[str]:
    return {info.base_name for info in store._infos("data")}


def test_the_folder_is_its_owners_alone(store):
    assert os.stat(store._root).st_mode & 0o777 == 0o700


def test_a_file_is_read_as_it_was_written(store):
    file_id = keep(store, b"abc")
    info = store.file(MINE, file_id)
    assert (info.bytes, info.created_at, info.expires_at) == (3, 1_000, 4_600)
    assert (info.filename, info.purpose) == ("a.jsonl", "batch")
    with store.open(store.file(MINE, file_id)) as file:
        assert file.read() == b"abc"
    store.delete_file(MINE, file_id)
    with pytest.raises(UnknownObject):
        store.file(MINE, file_id)
    with pytest.raises(UnknownObject):
        store.open(info)
    assert not files_of(store)


def test_another_owner_sees_nothing(store):
    file_id, batch = keep(store), a_batch()
    store.create_batch(batch, 10)
    assert (store.files(MINE), store.batches(MINE)) == ([file_id], [batch.id])
    assert (store.files(OTHERS), store.batches(OTHERS)) == ([], [])
    for call in (store.file, store.delete_file):
        with pytest.raises(UnknownObject):
            call(OTHERS, file_id)
    with pytest.raises(UnknownObject):
        store.batch(OTHERS, batch.id)
    assert store.file(MINE, file_id)


@given(st.text() | st.sampled_from(["../mine/x", "..", "", "a/b", "file-", "file-" + "g" * 33]))
def test_an_id_that_is_not_ours_never_becomes_a_path(tmp_path_factory, name):
    store = open_store(str(tmp_path_factory.getbasetemp() / "ids"))
    for call in (store.file, store.batch, store.delete_file):
        with pytest.raises(UnknownObject):
            call(MINE, name)


def test_an_upload_that_is_dropped_leaves_nothing(store):
    upload = store.upload(FILE_ID)
    upload.write(b"x" * 100_000)
    assert not store.files(MINE)
    upload.drop()
    assert not files_of(store)


def test_a_write_that_fails_keeps_what_was_there(store):
    batch = a_batch()
    store.save_batch(batch)
    half = store._replacing(f"batches/{MINE}/{batch.id}.json")
    half.__enter__().write(b'{"half": ')
    with pytest.raises(RuntimeError):
        half.gen.throw(RuntimeError())
    assert store.batch(MINE, batch.id) == batch
    assert files_of(store) == {f"batches/{MINE}/{batch.id}.json"}


def test_a_torn_read_is_repeated_and_damage_is_said(store, monkeypatch):
    batch, pauses = a_batch(), []
    path = f"{store._root}/batches/{MINE}/{batch.id}.json"
    store.save_batch(batch)
    with open(path, "rb") as file:
        whole = file.read()

    def mend(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            with open(path, "wb") as file:
                file.write(whole)

    monkeypatch.setattr("deployments.batches.store.time.sleep", mend)
    os.truncate(path, 100)
    assert store.batch(MINE, batch.id) == batch
    assert len(pauses) == 2
    os.truncate(path, 100)
    with pytest.raises(StoreFailed):
        store.batch(MINE, batch.id)


def test_the_queue_is_bounded_and_the_oldest_comes_first(store):
    batches = [
        a_batch(id=new_id(BATCH_PREFIX, now), owner=EVERYONE) for now in (3_000, 1_000, 2_000)
    ]
    for batch in batches:
        store.create_batch(batch, 3)
    with pytest.raises(Overloaded) as refused:
        store.create_batch(a_batch(), 3)
    assert refused.value.retry_after_s
    assert store.queue() == dict.fromkeys(sorted(batch.id for batch in batches), EVERYONE)
    store.dequeue(EVERYONE, batches[0].id)
    assert batches[0].id not in store.queue()
    store.create_batch(a_batch(), 3)


def test_one_owner_cannot_fill_the_queue_for_others(store):
    for _ in range(3):
        store.create_batch(a_batch(id=new_id(BATCH_PREFIX, 1)), 6)
    with pytest.raises(Overloaded):
        store.create_batch(a_batch(), 6)
    store.create_batch(a_batch(owner=OTHERS), 6)
    assert sorted(store.queue().values()) == [MINE, MINE, MINE, OTHERS]


def test_leaving_the_queue_forgets_the_work(store):
    batch = a_batch()
    store.create_batch(batch, 1)
    store.save_plan(batch.id, {"parts": []})
    store.save_part(batch.id, 7, [b"+a\n", b"-b\n"])
    store.ask_to_cancel(batch.id, 1_234.5)
    store.ask_to_cancel(batch.id, 9_999)
    assert store.cancelled_at(batch.id) == 1_234
    assert store.cancellations() == {batch.id}
    assert store.parts(batch.id) == [7]
    with store.open_part(batch.id, 7) as stream:
        assert stream.read() == b"+a\n-b\n"
    store.dequeue(MINE, batch.id)
    store.dequeue(MINE, batch.id)
    assert files_of(store) == {f"batches/{MINE}/{batch.id}.json"}


def test_the_sweep_takes_what_has_expired_and_what_was_abandoned(store):
    _, young = keep(store, now=1_000), keep(store, now=9_000)
    ended = [
        a_batch(id=new_id(BATCH_PREFIX, now), status=Status.COMPLETED) for now in (1_000, 9_000)
    ]
    queued = keep(store, now=1_002)
    waiting = a_batch(id=new_id(BATCH_PREFIX, 1_002), input_file_id=queued)
    for batch in ended:
        store.save_batch(batch)
    store.create_batch(waiting, 1)
    abandoned = store.upload(FILE_ID)
    abandoned.write(b"x")
    store.sweep(9_500, TTL_S)
    assert store.files(MINE) == [queued, young]
    assert store.batches(MINE) == sorted([waiting.id, ended[1].id])
    contents = {store.file(MINE, file_id).content for file_id in (queued, young)}
    assert contents_of(store) == {*contents, abandoned._content}
    long_ago = time.time() - 90_000  # all contents are old, but only this one is nobody's
    for info in store._infos("data"):
        os.utime(info.path, (long_ago, long_ago))
    store.sweep(9_500, TTL_S)
    assert contents_of(store) == contents


def test_the_sweep_queues_a_batch_whose_creation_was_cut_off(store):
    batch = a_batch(id=new_id(BATCH_PREFIX, 9_000))
    store.save_batch(batch)
    store.save_plan(batch.id, {})
    store.sweep(9_500, TTL_S)
    assert store.queue() == {batch.id: MINE}
    store.save_batch(replace(batch, status=Status.COMPLETED))
    store.dequeue(MINE, batch.id)
    store.save_part(batch.id, 1, [b"+late\n"])  # by a runner that has lost its lease
    store.sweep(9_500, TTL_S)
    assert store.queue() == {}
    assert files_of(store) == {f"batches/{MINE}/{batch.id}.json"}


@pytest.mark.parametrize("record", [b"", b"{", b"{}", b'{"id": 1}'])
def test_a_damaged_record_of_a_file_keeps_its_own_content_alone(store, monkeypatch, record):
    monkeypatch.setattr("deployments.batches.store._READ_AGAIN_S", 0)
    damaged = keep(store, now=9_000)
    keep(store, now=1_000)  # it has expired
    content = store.file(MINE, damaged).content
    with open(f"{store._root}/files/{MINE}/{damaged}.json", "wb") as file:
        file.write(record)
    store.upload(FILE_ID).write(b"abandoned")
    for info in store._infos("data"):
        os.utime(info.path, (1, 1))
    store.sweep(9_500, TTL_S)
    assert store.files(MINE) == [damaged]
    assert contents_of(store) == {content}


@pytest.mark.parametrize("is_queued", [True, False])
def test_a_damaged_record_of_a_batch_keeps_expired_files_while_it_is_in_the_queue(
    store, monkeypatch, is_queued
):
    monkeypatch.setattr("deployments.batches.store._READ_AGAIN_S", 0)
    expired, batch = keep(store, now=1_000), a_batch(id=new_id(BATCH_PREFIX, 9_000))
    store.create_batch(batch, 1)
    if not is_queued:
        store.dequeue(MINE, batch.id)
    store._put(f"batches/{MINE}/{batch.id}.json", {"id": 1})
    kept = {store.file(MINE, expired).content} if is_queued else set()
    store.upload(FILE_ID).write(b"abandoned")
    for info in store._infos("data"):
        os.utime(info.path, (1, 1))
    store.sweep(9_500, TTL_S)
    assert store.files(MINE) == [expired] * is_queued
    assert contents_of(store) == kept
    assert store.batches(MINE) == [batch.id]


def test_an_attempt_cannot_remove_what_another_one_has_written(store):
    first, second = store.upload(FILE_ID), store.upload(FILE_ID)
    first.write(b"the first")
    second.write(b"the second")
    second.keep(MINE, "a.jsonl", "batch", 1_000, TTL_S)
    first.drop()
    second.drop()
    with store.open(store.file(MINE, FILE_ID)) as file:
        assert file.read() == b"the second"
    assert store.files(MINE) == [FILE_ID]


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path):
    with mounted(tmp_path / "small", "size=400k") as folder:
        store = open_store(str(folder / "store"))
        file_id, batch = keep(store, b"kept\n"), a_batch()
        store.create_batch(batch, 1)
        upload = store.upload(FILE_ID)
        with pytest.raises(StoreFailed) as failed:
            upload.write(b"x" * 1_000_000)
        assert (failed.value.status, failed.value.code) == (507, "store_failed")
        with pytest.raises(StoreFailed):
            store.save_part(batch.id, 0, [b"+" + b"x" * 100_000 + b"\n"])
        assert store.parts(batch.id) == []
        upload.drop()
        store.save_part(batch.id, 0, [b"+" + b"x" * 100_000 + b"\n"])
        assert store.parts(batch.id) == [0]
        assert store.batch(MINE, batch.id) == batch
        with store.open(store.file(MINE, file_id)) as file:
            assert file.read() == b"kept\n"


def test_a_place_that_cannot_be_a_store(tmp_path):
    (tmp_path / "file").write_text("")
    for location in (str(tmp_path / "file"), "nonsense://bucket/x"):
        with pytest.raises(StoreFailed):
            open_store(location)


def test_an_unknown_file_id_of_the_right_form(store):
    with pytest.raises(UnknownObject) as refused:
        store.file(MINE, new_id(FILE_PREFIX, 1))
    assert (refused.value.status, refused.value.code) == (404, "object_not_found")


def test_a_creation_that_fails_or_is_given_up_leaves_nothing(store, monkeypatch):
    put = Store._put

    def full(self, path, content):
        if path.startswith("queue/"):
            raise StoreFailed("No space left on device")
        put(self, path, content)

    with monkeypatch.context() as failing:
        failing.setattr(Store, "_put", full)
        with pytest.raises(StoreFailed):
            store.create_batch(a_batch(), 1)
    assert not files_of(store)
    for waited in range(2):  # until the queue is written, or just after
        answers = [None] * waited + [StoreFailed("too late")]

        def check(answers=answers):
            if (error := answers.pop(0)) is not None:
                raise error

        with pytest.raises(StoreFailed):
            store.create_batch(a_batch(), 1, check)
        assert not files_of(store)


def test_the_sweep_forgets_cancellations_of_batches_that_have_ended(store):
    ended, queued = a_batch(status=Status.COMPLETED), a_batch()
    store.save_batch(ended)
    store.create_batch(queued, 1)
    for batch in (ended, queued):
        store.ask_to_cancel(batch.id, 1_000)
    store.sweep(1_000, TTL_S)
    assert store.cancellations() == {queued.id}


def test_a_batch_that_is_set_aside_is_kept_elsewhere(store):
    batch = a_batch()
    store.create_batch(batch, 1)
    store.set_aside(MINE, batch.id)
    assert files_of(store) == {f"damaged/{batch.id}.json"}


@pytest.mark.parametrize("record", [b"{", b"{}", b"7", b'{"id": 1, "rights": 2}'])
def test_a_damaged_record_is_told_from_a_store_that_fails(store, monkeypatch, record):
    monkeypatch.setattr("deployments.batches.store._READ_AGAIN_S", 0)
    batch, file_id = a_batch(), keep(store)
    store.save_batch(batch)
    for folder, object_id, read in (
        ("batches", batch.id, store.batch),
        ("files", file_id, store.file),
    ):
        with open(f"{store._root}/{folder}/{MINE}/{object_id}.json", "wb") as file:
            file.write(record)
        with pytest.raises(StoreDamaged):
            read(MINE, object_id)
