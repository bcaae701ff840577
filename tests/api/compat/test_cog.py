"""The HTTP API of the hosted page of e5-mistral-7b-instruct."""

from __future__ import annotations

import jsonschema
import numpy as np
import pytest

from deployments.core.errors import ModelUnavailable
from deployments.core.models.spec import Role
from deployments.core.request import EncodeRequest
from deployments.core.vectors import normalized
from tests.api.calls import ok, send
from tests.api.fake_backend import INSTRUCT, expected

TEXTS = {
    "task": "Given a web search query, retrieve relevant passages that answer the query",
    "query": "What is the recommended sugar intake for women",
    "document": "20 grams per day.",
}


def raw(text, role, task=None):
    return expected(INSTRUCT, EncodeRequest((text,), role, task, normalize=False))


QUERY = raw(TEXTS["query"], Role.QUERY, TEXTS["task"])
DOCUMENT = raw(TEXTS["document"], Role.DOCUMENT)


async def predict(http, **fields):
    body = {"input": {"model": "instruct", **fields}}
    answer = ok(await send(http, "/predictions", body))
    assert answer["status"] == "succeeded"
    assert answer["input"] == {"normalize": False, **body["input"]}
    return answer["output"]


async def test_a_query_and_a_document(client):
    output = await predict(client, **TEXTS)
    both = np.concatenate([QUERY, DOCUMENT])
    assert np.allclose(output["embeddings"], both, atol=1e-5)
    cosine = (normalized(QUERY) @ normalized(DOCUMENT).T).item()
    assert output["score"] == pytest.approx(100 * cosine, abs=1e-3)


async def test_a_document_alone(client):
    output = await predict(client, document=TEXTS["document"])
    assert np.allclose(output["embeddings"], DOCUMENT, atol=1e-5)
    assert output["score"] is None


async def test_normalised_vectors_follow_the_others_as_on_the_page(client):
    output = await predict(client, **TEXTS, normalize=True)
    both = np.concatenate([QUERY, DOCUMENT])
    assert np.allclose(output["embeddings"], [*both, *normalized(both)], atol=1e-5)


def check_invalid(response, field):
    assert response.status_code == 422, response.text
    [detail] = response.json()["detail"]
    assert detail["loc"] == ["body", "input", field]
    assert f"`{field}`" in detail["msg"]


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"query": "q", "document": "d"}, "task"),
        ({"task": "t", "document": "d"}, "query"),
        ({"task": "t", "query": "q", "document": "d", "model": "plain"}, "task"),
    ],
)
async def test_a_task_and_a_query_belong_together(client, fields, wrong):
    response = await send(client, "/predictions", {"input": {"model": "instruct", **fields}})
    assert response.status_code == 422
    [detail] = response.json()["detail"]
    assert detail["loc"][-1] == wrong
    assert "`task`" in detail["msg"]


async def test_a_missing_document(client):
    response = await send(client, "/predictions", {"input": {}})
    assert response.status_code == 422
    [detail] = response.json()["detail"]
    assert detail["loc"] == ["body", "input", "document"]
    assert "`input.document`" in detail["msg"]


async def test_what_would_be_answered_later_is_refused(client):
    body = {"input": {"document": "d"}}
    response = await client.post("/predictions", json=body, headers={"prefer": "respond-async"})
    check_invalid(response, "prefer")
    response = await send(client, "/predictions", {**body, "webhook": "http://127.0.0.1/"})
    check_invalid(response, "webhook")


async def test_other_errors_are_a_sentence(client, backend):
    backend.failing = ModelUnavailable("it starts", "model", 5.0)
    response = await send(client, "/predictions", {"input": {"document": "d"}})
    assert (response.status_code, response.json()) == (503, {"detail": "it starts"})
    assert response.headers["retry-after"] == "5"


async def test_the_index_has_the_schema_of_the_input(client):
    index = ok(await client.get("/"))
    jsonschema.Draft202012Validator(index["input_schema"]).validate(TEXTS)
    assert (
        await send(client, index["predictions_url"], {"input": TEXTS | {"model": "instruct"}})
    ).is_success
    for path in (index["docs_url"], index["openapi_url"], index["healthcheck_url"]):
        assert (await client.get(path)).is_success
