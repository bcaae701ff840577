"""Files and batches over HTTP, with the real store and the real runner behind them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import httpx
import pytest

from deployments.api.auth import ApiKeys
from deployments.api.files import ApiBatches
from deployments.batch_runner.answering import LineAnswers
from deployments.batches.store import Store, open_store
from deployments.batches.threads import StoreThreads
from deployments.config.schema import BatchesConfig
from deployments.core.errors import StoreFailed
from deployments.core.tenants.tenant import Tenant
from tests.api.calls import app_of, check_refusal, connect, default_limits, embed, ok, send
from tests.api.fake_backend import FakeBackend
from tests.api.test_openapi import check_against, response_schema
from tests.support.batches import URL, as_jsonl, hurry, ids_of, input_line, running

FILES, BATCHES = "/v1/files", "/v1/batches"
CONFIG = BatchesConfig(max_file_bytes=300_000, max_batches=6, retention_days=2)
KEYS = {"authorization": "Bearer first"}, {"authorization": "Bearer second"}
INVALID, NONE = "invalid_value", "object_not_found"


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    hurry(monkeypatch)
    return open_store(str(tmp_path / "store"))


def api_batches(store: Store) -> ApiBatches:
    return ApiBatches(CONFIG, StoreThreads(lambda: store))


@pytest.fixture
async def http(store) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the first of two keys; nothing runs the batches."""
    app = app_of(FakeBackend(), ApiKeys(["first", "second"]), api_batches(store))
    async with connect(app) as http:
        http.headers.update(KEYS[0])
        yield http


async def upload(http: httpx.AsyncClient, content: bytes, **form: Any) -> httpx.Response:
    data = {"purpose": "batch", **form}
    return await http.post(FILES, data=data, files={"file": ("in.jsonl", content)})


async def create(http: httpx.AsyncClient, file_id: str, **fields: Any) -> httpx.Response:
    body = {"input_file_id": file_id, "endpoint": URL, "completion_window": "24h", **fields}
    return await send(http, BATCHES, body)


async def sent(http: httpx.AsyncClient, lines: list[Any]) -> dict[str, Any]:
    return ok(await create(http, ok(await upload(http, as_jsonl(lines)))["id"]))


async def ended(http: httpx.AsyncClient, batch_id: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            batch = ok(await http.get(f"{BATCHES}/{batch_id}"))
            if batch["status"] in ("completed", "failed", "expired", "cancelled"):
                return batch
            await asyncio.sleep(0.02)


async def lines_of(http: httpx.AsyncClient, file_id: str) -> list[dict[str, Any]]:
    response = await http.get(f"{FILES}/{file_id}/content")
    assert response.status_code == 200
    assert response.headers["content-length"] == str(len(response.content))
    return [json.loads(line) for line in response.content.splitlines()]


async def test_a_batch_from_upload_to_results(http, store):
    lines = [input_line(f"{n}", model=("plain", "instruct")[n % 2]) for n in range(300)]
    bad = [b"nonsense", input_line("over", input="w " * 99), input_line("none", model="no")]
    batch = await sent(http, [*lines, *bad])
    assert (batch["object"], batch["status"]) == ("batch", "validating")
    assert batch["expires_at"] == batch["created_at"] + 86_400
    answers = LineAnswers(FakeBackend(), default_limits(), 5)
    async with running(store, answers.answer):
        batch = await ended(http, batch["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 303, "completed": 300, "failed": 3}
    assert batch["created_at"] <= batch["in_progress_at"] <= batch["completed_at"]
    output = await lines_of(http, batch["output_file_id"])
    assert ids_of(output) == sorted(f"{n}" for n in range(300))
    for line in (output[0], output[-1]):
        number = int(line["custom_id"])
        online = await embed(http, **lines[number]["body"])
        assert line["response"]["body"] == online
    errors = {e["custom_id"]: e for e in await lines_of(http, batch["error_file_id"])}
    assert errors[None]["error"]["code"] == "invalid_json_line"
    statuses = {i: errors[i]["response"]["status_code"] for i in ("over", "none")}
    assert statuses == {"over": 400, "none": 404}
    code = errors["over"]["response"]["body"]["error"]["code"]
    assert code == "context_length_exceeded"
    shown = ok(await http.get(f"{FILES}/{batch['output_file_id']}"))
    assert (shown["purpose"], shown["filename"]) == (
        "batch_output",
        f"{batch['id']}_output.jsonl",
    )


async def test_a_file_is_shown_listed_and_deleted(http):
    content = b"x" * 299_999
    file = ok(await upload(http, content))
    assert (file["object"], file["bytes"], file["filename"]) == ("file", 299_999, "in.jsonl")
    assert (file["purpose"], file["status"]) == ("batch", "processed")
    assert file["expires_at"] == file["created_at"] + 2 * 86_400
    assert ok(await http.get(f"{FILES}/{file['id']}")) == file
    assert (await http.get(f"{FILES}/{file['id']}/content")).content == content
    assert ok(await http.get(FILES))["data"] == [file]
    gone = ok(await http.delete(f"{FILES}/{file['id']}"))
    assert gone == {"id": file["id"], "object": "file", "deleted": True}
    for response in (
        await http.get(f"{FILES}/{file['id']}"),
        await http.get(f"{FILES}/{file['id']}/content"),
        await http.delete(f"{FILES}/{file['id']}"),
    ):
        check_refusal(response, 404, "file_id", NONE)
    assert ok(await http.get(FILES))["data"] == []


async def test_answers_match_the_description(http):
    file = await upload(http, as_jsonl([input_line("a")]))
    file_id = ok(file)["id"]
    batch = await create(http, file_id, metadata={"a": "b"})
    one, cancel = "/v1/batches/{id}", "/v1/batches/{id}/cancel"
    batch_id, other = ok(batch)["id"], ok(await upload(http, b"x"))["id"]
    for method, path, response in (
        ("post", FILES, file),
        ("get", FILES, await http.get(FILES)),
        ("get", "/v1/files/{id}", await http.get(f"{FILES}/{file_id}")),
        ("delete", "/v1/files/{id}", await http.delete(f"{FILES}/{other}")),
        ("delete", "/v1/files/{id}", await http.delete(f"{FILES}/{file_id}")),  # it is in use
        ("post", BATCHES, batch),
        ("post", BATCHES, await create(http, "file-x")),
        ("get", BATCHES, await http.get(BATCHES)),
        ("get", one, await http.get(one.format(id=batch_id))),
        ("get", one, await http.get(one.format(id="x"))),
        ("post", cancel, await http.post(cancel.format(id=batch_id))),
    ):
        check_against(response_schema(path, method, response.status_code), response.json())


async def test_another_key_sees_nothing(http):
    batch = await sent(http, [input_line("a")])
    file_id = batch["input_file_id"]
    other = KEYS[1]
    for method, path in (
        ("GET", f"{FILES}/{file_id}"),
        ("GET", f"{FILES}/{file_id}/content"),
        ("DELETE", f"{FILES}/{file_id}"),
        ("GET", f"{BATCHES}/{batch['id']}"),
        ("POST", f"{BATCHES}/{batch['id']}/cancel"),
    ):
        response = await http.request(method, path, headers=other)
        assert response.status_code == 404, path
    for path in (FILES, BATCHES):
        assert ok(await http.get(path, headers=other))["data"] == []
        assert len(ok(await http.get(path))["data"]) == 1
    http.headers.update(other)
    check_refusal(await create(http, file_id), 404, "input_file_id", NONE)
    http.headers.update(KEYS[0])
    assert ok(await http.get(f"{BATCHES}/{batch['id']}"))["status"] == "validating"


async def test_the_store_holds_no_key(http, store):
    await sent(http, [input_line("a")])
    paths = [str(info.path) for info in store._infos("files")]
    assert paths
    assert not any("first" in path for path in paths)


@pytest.mark.parametrize(
    ("form", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": None}, "purpose"),
        ({"expires_after[seconds]": "60"}, "expires_after"),
        ({"expires_after[seconds]": "1000000"}, "expires_after"),
        ({"expires_after[seconds]": "soon"}, "expires_after"),
        ({"expires_after[anchor]": "now"}, "expires_after"),
    ],
)
async def test_a_wrong_form_is_refused_and_leaves_nothing(http, store, form, param):
    fields = {"purpose": "batch", **form}
    fields = {name: value for name, value in fields.items() if value is not None}
    response = await http.post(FILES, data=fields, files={"file": ("a", b"x")})
    check_refusal(response, 400, param, INVALID)
    assert not store._infos("data")
    assert not store._infos("tmp")


async def test_a_file_may_expire_sooner(http):
    form = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file = ok(await upload(http, b"x", **form))
    assert file["expires_at"] == file["created_at"] + 3_600


async def test_a_file_over_the_bound(http, store):
    assert (await upload(http, b"x" * 300_000)).status_code == 200
    response = await upload(http, b"x" * 300_001)
    check_refusal(response, 413, "file", "body_too_large")
    assert len(store._infos("data")) == 1
    assert not store._infos("tmp")


BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"content-type": "application/json"}, b"{}", 415),
        ({}, b"x", 415),
        ({"content-type": "multipart/form-data"}, b"x", 415),
        (BOUNDARY, b"not a form", 400),
        (BOUNDARY, b"", 400),
        (BOUNDARY, FILE, 400),  # cut off
        (BOUNDARY, FILE + FILE + b"--b--", 400),
        (BOUNDARY, PART % (b"purpose", b"batch") + b"--b--", 400),
        (BOUNDARY, PART % (b"purpose", b"b" * 2_000) + FILE + b"--b--", 400),
        (BOUNDARY, b"".join(PART % (b"f%d" % n, b"") for n in range(20)) + b"--b--", 400),
        ({"content-type": "multipart/form-data; boundary=" + "b" * 9_999}, b"x", 400),
    ],
)
async def test_a_body_that_is_no_such_form(http, store, headers, body, status):
    response = await http.post(FILES, content=body, headers=headers)
    assert response.status_code == status, response.text
    assert response.json()["error"]["message"]
    assert not store._infos("data")
    assert not store._infos("tmp")


async def test_the_fields_of_a_form_may_come_in_any_order_and_in_any_pieces(http):
    parts = [PART % (b"purpose", b"batch"), FILE]
    for order in (parts, parts[::-1]):
        body = b"".join(order) + b"--b--\r\n"
        for size in (1, 7, len(body)):

            async def pieces(body=body, size=size):
                for start in range(0, len(body), size):
                    yield body[start : start + size]

            file = ok(await http.post(FILES, content=pieces(), headers=BOUNDARY))
            assert (file["bytes"], file["filename"]) == (1, "a")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"endpoint": None}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {f"{n}": "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3_600}}, "output_expires_after"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 259_200}},
            "output_expires_after",
        ),
    ],
)
async def test_a_wrong_batch_is_refused_by_name(http, fields, param):
    file_id = ok(await upload(http, b"x"))["id"]
    check_refusal(await create(http, file_id, **fields), 400, param, INVALID)
    assert not ok(await http.get(BATCHES))["data"]


async def test_results_are_no_input(http, store):
    batch = await sent(http, [input_line("a")])
    async with running(store, LineAnswers(FakeBackend(), default_limits(), 5).answer):
        batch = await ended(http, batch["id"])
    response = await create(http, batch["output_file_id"])
    check_refusal(response, 400, "input_file_id", INVALID)


async def test_results_may_expire_sooner(http, store):
    file_id = ok(await upload(http, as_jsonl([input_line("a")])))["id"]
    kept = {"anchor": "created_at", "seconds": 3_600}
    batch = ok(await create(http, file_id, output_expires_after=kept, metadata={"a": "b"}))
    assert batch["metadata"] == {"a": "b"}
    async with running(store, LineAnswers(FakeBackend(), default_limits(), 5).answer):
        batch = await ended(http, batch["id"])
    output = ok(await http.get(f"{FILES}/{batch['output_file_id']}"))
    assert output["expires_at"] == output["created_at"] + 3_600


async def test_too_many_batches(http):
    for _ in range(3):
        await sent(http, [input_line("a")])
    file_id = ok(await upload(http, as_jsonl([input_line("a")])))["id"]
    refused = await create(http, file_id)
    check_refusal(refused, 429, None, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    http.headers.update(KEYS[1])
    await sent(http, [input_line("a")])  # there is room for others


async def test_a_file_that_is_needed_cannot_be_deleted(http, store):
    batch = await sent(http, [input_line("a")])
    path = f"{FILES}/{batch['input_file_id']}"
    check_refusal(await http.delete(path), 400, "file_id", INVALID)
    async with running(store, LineAnswers(FakeBackend(), default_limits(), 5).answer):
        await ended(http, batch["id"])
        while store.queue():
            await asyncio.sleep(0.01)
    ok(await http.delete(path))


async def test_a_batch_is_cancelled(http, store):
    batch = await sent(http, [input_line("a")])
    path = f"{BATCHES}/{batch['id']}"
    for response in (await http.post(f"{path}/cancel"), await http.get(path)):
        shown = ok(response)
        assert shown["status"] == "cancelling"
        assert shown["cancelling_at"] >= shown["created_at"]
    async with running(store, LineAnswers(FakeBackend(), default_limits(), 5).answer):
        batch = await ended(http, batch["id"])
    assert batch["status"] == "cancelled"
    (error,) = await lines_of(http, batch["error_file_id"])
    assert (error["custom_id"], error["error"]["code"]) == ("a", "batch_cancelled")
    check_refusal(await http.post(f"{path}/cancel"), 400, "batch_id", INVALID)


async def test_a_batch_that_fails_says_why(http, store):
    batch = await sent(http, [input_line("a"), input_line("a")])
    async with running(store, LineAnswers(FakeBackend(), default_limits(), 5).answer):
        batch = await ended(http, batch["id"])
    assert batch["status"] == "failed"
    assert batch["failed_at"]
    (problem,) = batch["errors"]["data"]
    assert (problem["code"], problem["line"]) == ("duplicate_custom_id", 2)


@pytest.mark.parametrize("path", [FILES, BATCHES])
async def test_pages(http, store, path):
    ids = []
    for _ in range(3):
        batch = await sent(http, [input_line("a")])
        ids.append(batch["id"] if path == BATCHES else batch["input_file_id"])
        await asyncio.sleep(0.002)  # ids of one millisecond have no order
    newest_first, after, pages = ids[::-1], {}, []
    while True:
        page = ok(await http.get(path, params={"limit": 2, **after}))
        pages += [item["id"] for item in page["data"]]
        assert page["object"] == "list"
        assert page["first_id"] == page["data"][0]["id"]
        after = {"after": page["last_id"]}
        if not page["has_more"]:
            break
    assert pages == newest_first
    for limit in ("0", "-1", "x", "10001", "9" * 99, "²"):
        refused = await http.get(path, params={"limit": limit})
        check_refusal(refused, 400, "limit", INVALID)


async def test_files_by_order_and_purpose(http):
    ids = []
    for _ in range(3):
        ids.append(ok(await upload(http, b"x"))["id"])
        await asyncio.sleep(0.002)
    rising = ok(await http.get(FILES, params={"order": "asc", "after": ids[0]}))["data"]
    assert [file["id"] for file in rising] == ids[1:]
    assert not ok(await http.get(FILES, params={"purpose": "batch_output"}))["data"]
    check_refusal(await http.get(FILES, params={"order": "up"}), 400, "order", INVALID)


@pytest.mark.parametrize("name", ["..", "%2e%2e%2fx", "file-x", "file-" + "0" * 33, "x" * 5_000])
async def test_an_id_that_is_not_ours(http, name):
    for path in (f"{FILES}/{name}/content", f"{BATCHES}/{name}/cancel"):
        method = "POST" if path.startswith(BATCHES) else "GET"
        assert (await http.request(method, path)).status_code == 404


async def test_batches_that_are_off():
    async with connect(app_of(FakeBackend())) as http:
        check_refusal(await http.get(BATCHES), 404, None, "not_found", "batches: {}")
        check_refusal(await upload(http, b"x"), 404, None, "not_found", "batches: {}")


async def test_a_store_that_is_away_at_first_is_opened_later(store):
    stores = [StoreFailed("no such bucket"), store]

    def opening() -> Store:
        if isinstance(opened := stores.pop(0), StoreFailed):
            raise opened
        return opened

    batches = ApiBatches(CONFIG, StoreThreads(opening))
    async with connect(app_of(FakeBackend(), batches=batches)) as http:
        check_refusal(await http.get(FILES), 507, None, "store_failed", "no such bucket")
        for _ in range(2):
            assert ok(await http.get(FILES))["data"] == []
    assert not stores


async def test_a_full_disk_is_said_to_the_sender(http, store, monkeypatch):
    def full(self, content):
        raise StoreFailed("No space left on device")

    monkeypatch.setattr("deployments.batches.store.Upload.write", full)
    check_refusal(await upload(http, b"x"), 507, None, "store_failed")
    assert not store._infos("tmp")


async def test_a_store_that_hangs_costs_nobody_else_anything(store, monkeypatch):
    hung = threading.Event()
    monkeypatch.setattr(Store, "files", lambda self, owner: hung.wait(30))
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    batches = ApiBatches(CONFIG, StoreThreads(lambda: store, threads=2, answer_s=0.2))
    async with connect(app_of(FakeBackend(), batches=batches)) as http:
        lists = [asyncio.ensure_future(http.get(FILES)) for _ in range(8)]
        await asyncio.sleep(0.05)
        large = ["word"] * 2_000 + ["x" * 40_000]
        answered = await asyncio.wait_for(embed(http, input=large, truncate=True), 10)
        assert len(answered["data"]) == len(large)
        for response in await asyncio.gather(*lists):
            check_refusal(response, 503, None, "store_unavailable", store._root)
            assert int(response.headers["retry-after"]) > 0
    hung.set()


async def test_a_creation_that_answers_503_queues_nothing_later(store, monkeypatch):
    slow, put = threading.Event(), Store._put

    def slowly(self, path, content):
        if path.startswith("batches/"):
            slow.wait(30)
        put(self, path, content)

    monkeypatch.setattr(Store, "_put", slowly)
    batches = ApiBatches(CONFIG, StoreThreads(lambda: store, answer_s=0.3))
    async with connect(app_of(FakeBackend(), batches=batches)) as http:
        file_id = ok(await upload(http, b"x"))["id"]
        check_refusal(await create(http, file_id), 503, None, "store_unavailable")
        slow.set()
        batches.store._pool.shutdown()  # its thread has ended
    assert not store.queue()
    assert not store.batches("everyone")


@pytest.mark.parametrize("path", [FILES, BATCHES])
async def test_a_list_leaves_out_a_damaged_object(http, store, path):
    batches = [await sent(http, [input_line("a")]) for _ in range(2)]
    damaged, whole = (b["id"] if path == BATCHES else b["input_file_id"] for b in batches)
    folder = "batches" if path == BATCHES else "files"
    (owner,) = store._names(folder)
    store._put(f"{folder}/{owner}/{damaged}.json", {"id": 1})
    assert [shown["id"] for shown in ok(await http.get(path))["data"]] == [whole]
    check_refusal(await http.get(f"{path}/{damaged}"), 507, None, "store_damaged")


async def test_a_list_reads_several_files_at_once(http, monkeypatch):
    ids = [ok(await upload(http, b"x"))["id"] for _ in range(12)]
    together, read = threading.Barrier(4), Store.file

    def at_once(self, owner, file_id):
        together.wait(5)
        return read(self, owner, file_id)

    monkeypatch.setattr(Store, "file", at_once)
    listed = ok(await http.get(FILES, params={"limit": 10_000}))["data"]
    assert sorted(file["id"] for file in listed) == sorted(ids)


async def test_a_list_has_a_deadline(store, monkeypatch):
    app = app_of(FakeBackend(), None, api_batches(store), request_timeout_s=0.2)
    async with connect(app) as http:
        ok(await upload(http, b"x"))
        monkeypatch.setattr(Store, "file", lambda self, owner, file_id: time.sleep(0.5))
        check_refusal(await http.get(FILES), 504, "limit", "deadline_exceeded")


async def test_an_upload_has_a_deadline(http, store, monkeypatch):
    monkeypatch.setattr("deployments.api.uploads._SETUP_S", -2.8)  # and 3 s for the bytes

    async def slowly() -> AsyncIterator[bytes]:
        yield FILE.removesuffix(b"\r\n")
        while True:
            await asyncio.sleep(0.05)
            yield b"x"

    async with asyncio.timeout(5):
        response = await http.post(FILES, content=slowly(), headers=BOUNDARY)
    check_refusal(response, 408, None, "body_timeout")
    assert not store._infos("data")


TENANTS = {
    sha256(key).digest(): Tenant(name, models)
    for key, name, models in (
        (b"old", "team", frozenset({"plain"})),
        (b"new", "team", frozenset({"plain"})),
        (b"other", "others", None),
    )
}


async def test_a_tenant_keeps_its_files_and_its_limits(store):
    app = app_of(FakeBackend(), ApiKeys(["first"], TENANTS), api_batches(store))
    async with connect(app) as http:
        http.headers["authorization"] = "Bearer old"
        names = ("plain", "instruct", "small", "auto")
        batch = await sent(http, [input_line(name, model=name) for name in names])
        http.headers["authorization"] = "Bearer new"
        async with running(store, LineAnswers(FakeBackend(), default_limits(), 5).answer):
            batch = await ended(http, batch["id"])
        (error,) = await lines_of(http, batch["error_file_id"])
        assert error["custom_id"] == "instruct"
        assert error["response"]["status_code"] == 403
        assert error["response"]["body"]["error"]["code"] == "model_not_allowed"
        output = await lines_of(http, batch["output_file_id"])
        assert {line["response"]["body"]["model"] for line in output} == {"plain"}
        for key in ("other", "first"):
            http.headers["authorization"] = f"Bearer {key}"
            assert (await http.get(f"{BATCHES}/{batch['id']}")).status_code == 404


async def test_a_page_of_another_site_sends_no_files_without_a_key(store):
    async with connect(app_of(FakeBackend(), batches=api_batches(store))) as http:
        form = {"data": {"purpose": "batch"}, "files": {"file": ("a", b"x")}}
        evil = {"origin": "http://evil.example"}
        check_refusal(await http.post(FILES, headers=evil, **form), 403, "origin", "forbidden_host")
        ok(await http.post(FILES, headers={"origin": "http://test"}, **form))  # of /docs
        assert len(store.files("everyone")) == 1


async def test_without_keys_everyone_shares(store):
    app = app_of(FakeBackend(), batches=api_batches(store))
    async with connect(app) as http:
        file = ok(await upload(http, b"x"))
        shown = await http.get(f"{FILES}/{file['id']}", headers=KEYS[1])
        assert ok(shown) == file
