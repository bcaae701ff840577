"""Bodies generated from the OpenAPI description, and arbitrary JSON: no 5xx, no hang.

``EMBEDFLEET_EXAMPLES`` sets how many bodies each route gets.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core import NOT_SET

from deployments.api.openapi import describe
from deployments.api.routes import ROUTES
from testing.running import RunningService

EXAMPLES = int(os.environ.get("EMBEDFLEET_EXAMPLES", "40"))
TOO_LONG_S = 20.0
SETTINGS = settings(
    max_examples=EXAMPLES,
    suppress_health_check=list(HealthCheck),
)


DESCRIPTION = schemathesis.openapi.from_dict(describe(ROUTES))
POSTS = [path for path, methods in describe(ROUTES)["paths"].items() if "post" in methods]


def check(answer: httpx.Response, seconds: float) -> None:
    if answer.status_code == 503:  # some of the models cannot answer
        assert answer.json()["error"]["code"] == "model_unavailable"
    else:
        assert answer.status_code < 500, answer.text
    assert seconds < TOO_LONG_S
    if answer.is_error:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.fixture(scope="module")
def http(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as client:
        yield client


def post(http: httpx.Client, path: str, body: bytes) -> None:
    started = time.monotonic()
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    check(answer, time.monotonic() - started)


@pytest.mark.parametrize("path", POSTS)
def test_bodies_of_the_description(http, path):
    @SETTINGS
    @given(case=DESCRIPTION[path]["POST"].as_strategy())
    def each(case: schemathesis.Case) -> None:
        body = case.body
        post(http, path, b"" if body is NOT_SET else json.dumps(body).encode())

    each()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=8,
)
FIELDS = ["model", "input", "input_type", "dimensions", "truncate", "instruction", "priority"]


@SETTINGS
@given(body=st.dictionaries(st.sampled_from(FIELDS), ANYTHING) | ANYTHING)
def test_bodies_of_anything(http, body):
    post(http, "/v1/embeddings", json.dumps(body).encode())


@SETTINGS
@given(text=st.text(min_size=1, max_size=200))
def test_any_text_with_a_letter_or_digit_has_a_vector(http, text):
    answer = http.post("/v1/embeddings", json={"model": "hashed", "input": text})
    if answer.status_code == 400 and not any(character.isalnum() for character in text):
        assert answer.json()["error"]["param"] == "input"  # a text without a single token
        return
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["data"][0]["embedding"]) == 384


def test_the_replicas_are_still_there(service, http):
    assert service.states()["all-MiniLM-L6-v2"] == "ready"
    body = {"model": "all-MiniLM-L6-v2", "input": "x"}
    assert http.post("/v1/embeddings", json=body).status_code == 200
