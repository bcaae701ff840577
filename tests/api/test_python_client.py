"""`embedfleet.Client` and `AsyncClient` against the real app in a real server."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

import embedfleet
from deployments.api.auth import ApiKeys
from deployments.config.schema import Limits
from deployments.core.errors import ModelUnavailable, Overloaded
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.vectors import normalized
from embedfleet import AsyncClient, Bounds, Client, ServiceError, SpaceMismatch
from testing.running import free_port
from tests.api.calls import app_of, listening
from tests.api.fake_backend import INSTRUCT, JUDGE, NESTED, PLAIN, FakeBackend, logit_of, vector_of

WAIT_S = 0.2


class Recording(FakeBackend):
    """Raises the errors of ``script`` one by one before it answers, and counts calls side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[Exception] = []
        self.under_way = self.most_under_way = self.most_before_an_answer = 0

    async def encode(self, decision, request, lane, deadline):
        if self.script:
            raise self.script.pop(0)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if not self.calls:
            self.most_before_an_answer = self.most_under_way
        await asyncio.sleep(0.02)
        self.under_way -= 1
        return await super().encode(decision, request, lane, deadline)

    @property
    def sizes(self) -> list[int]:
        return [len(request.texts) for _, request, _ in self.calls]


@pytest.fixture
def backend() -> Recording:
    return Recording()


@pytest.fixture
def url(backend: Recording) -> Iterator[str]:
    with listening(app_of(backend)) as url:
        yield url


class InThread:
    """A `Client` whose methods are awaited."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._client = Client(*args, **options)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._client, name)
        if not inspect.ismethod(value):
            return value
        return functools.partial(asyncio.to_thread, value)

    async def aclose(self) -> None:
        self._client.close()


@pytest.fixture(params=[InThread, AsyncClient], ids=["sync", "async"])
async def connect(request, url):
    """Makes clients of the server."""
    clients = []

    def make(**options: Any) -> Any:
        clients.append(request.param(options.pop("url", url), **options))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


async def test_vectors_and_what_they_are(connect):
    texts = ["a text", "another one", "ünïcode 🙂"]
    result = await connect().embed(texts, model="plain", role="query")
    expected = normalized(np.stack([vector_of(f"query: {text}") for text in texts]))
    np.testing.assert_array_equal(result.vectors, expected)
    assert (result.vectors.dtype, len(result)) == (np.float32, 3)
    assert (result.model, result.space) == ("plain", space_id(PLAIN, 8))
    assert (result.instruction, result.truncated) == (None, ())
    assert result.tokens == 3 * (2 + 3)  # words with the prompt, and two special ones each


async def test_one_text_is_a_row(connect):
    assert (await connect().embed("a text")).vectors.shape == (1, 8)


async def test_each_field_arrives(connect, backend):
    client = connect()
    result = await client.embed(
        ["a"], model="instruct", role="query", instruction="Find it", priority="offline"
    )
    model, request, lane = backend.calls[0]
    assert (model, request.role.value, lane) == ("instruct", "query", Lane.OFFLINE)
    assert request.instruction == result.instruction == "Find it"
    cut = await connect().embed(["a"], model="nested", dimensions=2)
    assert (cut.vectors.shape, cut.space) == ((1, 2), space_id(NESTED, 2))


async def test_large_input_is_split_and_keeps_its_order(connect, backend):
    texts = [f"text {n}" for n in range(25)]
    result = await connect(bounds=Bounds(max_texts=4)).embed(texts, model="plain")
    one = await connect().embed(texts, model="plain")
    np.testing.assert_array_equal(result.vectors, one.vectors)
    assert result.tokens == one.tokens
    assert sorted(backend.sizes) == [1, *[4] * 6, 25]
    assert 1 < backend.most_under_way <= 4


async def test_cut_texts_are_named_by_their_place_in_the_call(connect):
    texts = ["a", "b", "c", "one two three " * 9]
    client = connect(bounds=Bounds(max_texts=2))
    result = await client.embed(texts, model="plain", truncate=True)
    assert result.truncated == (3,)
    with pytest.raises(ServiceError, match="texts 2 to 3 of the call") as refused:
        await client.embed(texts, model="plain", truncate=False)
    error = refused.value
    assert (error.status, error.code, error.param) == (400, "context_length_exceeded", "input")


async def test_a_body_stays_below_the_bound_of_bytes(connect, backend):
    texts = ["é" * 30, "x", "y" * 200, "z", "z"]  # 62, 3, 202, 3 and 3 bytes and a comma each
    await connect(bounds=Bounds(max_bytes=70)).embed(texts, model="nested")
    assert sorted(backend.sizes) == [1, 2, 2]


def test_the_bounds_are_those_of_the_service_or_less():
    assert Bounds().max_texts <= Limits().max_texts
    assert Bounds().max_bytes + 20_000 <= Limits().max_body_bytes


async def test_the_space_of_the_first_answer_is_pinned(connect, backend):
    client = connect()
    assert client.space is None
    first = await client.embed(["a"], model="plain")
    assert client.space == first.space
    with pytest.raises(SpaceMismatch) as refused:
        await client.embed(["a"], model="instruct")
    assert (refused.value.status, refused.value.code) == (409, "embedding_space_mismatch")
    assert client.space == first.space
    # another model behind the same name, as after an update
    backend.specs["plain"] = replace(PLAIN, revision="plain-2")
    with pytest.raises(SpaceMismatch):
        await client.embed(["a"], model="plain")


async def test_calls_at_the_same_time_pin_one_space(connect, backend):
    client = connect()
    calls = (client.embed(["a"], model=model) for model in ("plain", "instruct") * 4)
    results = await asyncio.gather(*calls, return_exceptions=True)
    spaces = {result.space for result in results if not isinstance(result, Exception)}
    assert spaces == {client.space}
    assert sum(isinstance(result, SpaceMismatch) for result in results) == 4
    assert backend.most_before_an_answer == 1


async def test_a_given_space_is_required_at_once(connect):
    with pytest.raises(SpaceMismatch):
        await connect(space=space_id(INSTRUCT, 8)).embed(["a"], model="plain")


@pytest.mark.parametrize("error", [Overloaded, ModelUnavailable])
async def test_it_comes_back_when_it_is_told(connect, backend, error):
    backend.script = [error("too much", "model", retry_after_s=WAIT_S)] * 2
    started = time.monotonic()
    assert len(await connect().embed(["a"], model="plain")) == 1
    assert 2 * WAIT_S <= time.monotonic() - started < 2 * WAIT_S + 2
    assert backend.script == []


async def test_it_does_not_wait_beyond_its_time(connect, backend):
    backend.script = [Overloaded("too much", retry_after_s=30.0)]
    started = time.monotonic()
    with pytest.raises(ServiceError) as refused:
        await connect(timeout_s=5).embed(["a"], model="plain")
    assert time.monotonic() - started < 2
    assert (refused.value.status, refused.value.code) == (429, "overloaded")
    assert refused.value.retry_after_s == 30.0


async def test_what_will_not_pass_is_not_tried_again(connect, backend):
    backend.script = [ModelUnavailable("its files are damaged", "model")] * 2
    with pytest.raises(ServiceError) as refused:
        await connect().embed(["a"], model="plain")
    assert (refused.value.status, refused.value.param) == (503, "model")
    assert len(backend.script) == 1


async def test_a_slow_answer_is_given_up_at_the_deadline(connect, backend, monkeypatch):
    async def slow(*_):
        await asyncio.sleep(1.5)

    monkeypatch.setattr(backend, "encode", slow)
    started = time.monotonic()
    with pytest.raises(embedfleet.Unreachable, match=r"within 0\.3 s"):
        await connect(timeout_s=0.3).embed(["a"], model="plain")
    assert time.monotonic() - started < 1.2


async def test_nobody_there(connect):
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(embedfleet.Unreachable, match=url):
        await connect(url=url, timeout_s=0.5).embed(["a"])


@pytest.mark.parametrize(("texts", "error"), [([], ValueError), (["a", None], TypeError)])
async def test_what_is_no_text_is_refused_before_it_is_sent(connect, backend, texts, error):
    with pytest.raises(error, match="`texts"):
        await connect().embed(texts)
    with pytest.raises(ValueError, match="Unicode"):
        await connect().embed(["\ud800"])
    assert backend.calls == []


async def test_a_key(connect, backend, monkeypatch):
    with listening(app_of(backend, ApiKeys(["sécret"]))) as url:
        assert len(await connect(url=url, api_key="sécret").embed(["a"])) == 1
        monkeypatch.setenv("EMBEDFLEET_API_KEY", "sécret")
        assert len(await connect(url=f"{url}/v1/").embed(["a"])) == 1
        with pytest.raises(ServiceError) as refused:
            await connect(url=url, api_key="wrong").embed(["a"])
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")


async def test_documents_are_ranked(connect, backend):
    backend.specs["judge"] = JUDGE
    documents = [f"document {n}" for n in range(9)]
    logits = [logit_of("a query", document) for document in documents]
    best = sorted(range(9), key=lambda n: -logits[n])
    ranking = await connect().rerank("a query", documents, model="judge", top_n=3)
    assert [document.index for document in ranking.documents] == best[:3]
    assert (ranking.model, ranking.method) == ("judge", "cross-encoder")
    split = await connect(bounds=Bounds(max_texts=2)).rerank("a query", documents, model="small")
    assert [document.index for document in split.documents] == best
    assert split.documents[:3] == ranking.documents
    assert split.tokens == ranking.tokens


def test_errors_can_be_sent_to_another_process():
    error = ServiceError("no", 400, "invalid_value", "input", 1.0)
    assert vars(pickle.loads(pickle.dumps(error))) == vars(error)


PAGE = {"content-type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, json={"data": []}),
        httpx.Response(200, text="<html>page</html>", headers=PAGE),
        httpx.Response(302, headers={"location": "https://here/login"}),
        httpx.Response(404, text="<html>page</html>", headers=PAGE),
        httpx.Response(409, json={"detail": "conflict"}),
    ],
    ids=lambda answer: str(answer.status_code),
)
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_another_server(path, answer):
    transport = httpx.MockTransport(lambda _: answer)
    another = pytest.raises(embedfleet.UnexpectedAnswer)
    with Client("http://here", transport=transport) as client, another as unexpected:
        if path == "/v1/embeddings":
            client.embed(["a"])
        else:
            client.rerank("a", ["b"])
    kind = answer.headers.get("content-type", "no content type").partition(";")[0]
    message = str(unexpected.value)
    assert f"http://here{path} answers {answer.status_code} ({kind})" in message
    assert "<" not in message
    assert "\n" not in message


@pytest.mark.parametrize("status", [401, 403, 408, 500, 520])
def test_a_proxy_that_answers_instead_of_the_service(status):
    page = httpx.Response(status, text="<html>page</html>", headers=PAGE)
    transport = httpx.MockTransport(lambda _: page)
    with Client("http://here", transport=transport) as client, pytest.raises(ServiceError) as error:
        client.embed(["a"])
    assert (error.value.status, error.value.code) == (status, None)
    assert f"http://here/v1/embeddings answers {status} (text/html)" in str(error.value)


def test_a_server_that_does_not_keep_to_the_required_space():
    def answer(space: str) -> httpx.Response:
        item = {"index": 0, "embedding": "AACAPw=="}
        rest = {"model": "m", "instruction": None, "truncated": [], "usage": {"total_tokens": 1}}
        return httpx.Response(200, json={"data": [item], "space": space, **rest})

    answers = [answer("one"), answer("one"), answer("another")]
    with Client("here:1", transport=httpx.MockTransport(lambda _: answers.pop(0))) as client:
        assert (
            client.embed(["a"]).vectors.tolist() == client.embed(["a"]).vectors.tolist() == [[1.0]]
        )
        with pytest.raises(SpaceMismatch, match="space another"):
            client.embed(["a"])


def test_a_proxy_without_a_service_behind_it_is_tried_again():
    page = "<html>the service is away</html>"
    answers = [httpx.Response(status, text=page, headers=PAGE) for status in (503, 502)]
    transport = httpx.MockTransport(lambda _: answers.pop(0))
    with Client("here:1", transport=transport) as client, pytest.raises(ServiceError) as away:
        client.embed(["a"])
    assert answers == []
    assert (away.value.status, away.value.code) == (502, None)
    assert "http://here:1/v1/embeddings answers 502 (text/html)" in str(away.value)
    assert "<" not in str(away.value)
