"""The table in docs/api.md of what other servers' routes honour and refuse is true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from deployments.api.compat.dialect import DialectBody
from deployments.api.routes import DIALECT_ROUTES
from tests.api.calls import send
from tests.api.fake_backend import SPECS, SPLADE, FakeBackend
from tests.api.test_properties import TEXT, VALUES

PAGE = (Path(__file__).parents[3] / "docs/api.md").read_text()
_TEI = {"truncation_direction": "left", "prompt_name": "summary"}
# a body that each route answers, and what is refused in it
VALID = {
    "/embed": {"inputs": "a"},
    "/": {"inputs": "a"},
    "/embed_sparse": {"inputs": "a"},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b"]}},
    "/rerank": {"query": "a", "texts": ["b"]},
    "/v1/embed": {"texts": ["a"]},
    "/v2/embed": {"texts": ["a"]},
    "/api/embed": {"model": "plain", "input": "a"},
    "/api/embeddings": {"model": "plain", "prompt": "a"},
    "/score": {"text_1": "a", "text_2": ["b", "c"]},
    "/v1/score": {"text_1": "a", "text_2": ["b", "c"]},
    "/predictions": {"input": {"document": "a"}},
}
_COHERE = {"input_type": "classification", "truncate": "START", "embedding_types": ["float16"]}
REFUSED = {
    "/embed": {"inputs": [[1, 2]], **_TEI, "encoding_format": "base64"},
    "/": {"inputs": [[1, 2]], **_TEI, "encoding_format": "base64"},
    "/embed_sparse": {"inputs": [[1, 2]], **_TEI},
    "/similarity": {f"parameters.{name}": value for name, value in _TEI.items()},
    "/rerank": {"truncation_direction": "left"},
    "/v1/embed": _COHERE,
    "/v2/embed": _COHERE,
    "/api/embed": {"input": [[1, 2]]},
    "/api/embeddings": {},
    "/score": {},
    "/v1/score": {},
    "/predictions": {},
}
WITH_BODY = [spec for spec in DIALECT_ROUTES if spec.request]
by_path = pytest.mark.parametrize("spec", WITH_BODY, ids=lambda spec: spec.path)


@pytest.fixture
def backend() -> FakeBackend:
    """One with a model for each route."""
    return FakeBackend(specs={**SPECS, SPLADE.name: SPLADE})


def fields_of(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yields the names of a body's fields, with dots before those of objects in it."""
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, DialectBody):
            yield from fields_of(inner, f"{prefix}{name}.")
        elif name not in getattr(kind, "ignored", ()):
            yield prefix + (field.alias or name)


def row_of(spec) -> str:
    """Returns the row of the table that this route must have."""
    honoured = ", ".join(f"`{name}`" for name in fields_of(spec.request))
    values = [f"`{name}`: `{json.dumps(value)}`" for name, value in REFUSED[spec.path].items()]
    fields = [f"`{name}`" for name in spec.request.refused]
    refused = ", ".join((*values, *fields))
    ignored = ", ".join(f"`{name}`" for name in sorted(spec.request.ignored))
    cells = (spec.dialect.name, f"`{spec.method} {spec.path}`", honoured, refused, ignored)
    return f"| {' | '.join(cell or '–' for cell in cells)} |"


def with_field(body: dict, name: str, value: object) -> dict:
    """Returns the body with one more field, which may be in an object in it."""
    first, _, rest = name.partition(".")
    if not rest:
        return {**body, first: value}
    inner = body.get(first)
    return {**body, first: with_field(inner if isinstance(inner, dict) else {}, rest, value)}


@by_path
def test_each_route_has_its_row(spec):
    assert row_of(spec) in PAGE


@by_path
async def test_the_plain_body_is_answered(client, spec):
    assert (await send(client, spec.path, VALID[spec.path])).status_code == 200


@by_path
async def test_what_is_refused_is_refused_by_name(client, spec):
    refused = {**dict.fromkeys(spec.request.refused, "x"), **REFUSED[spec.path], "no_such_field": 1}
    for name, value in refused.items():
        response = await send(client, spec.path, with_field(VALID[spec.path], name, value))
        assert 400 <= response.status_code < 500
        assert f"`{name.partition('.')[0]}" in response.text


@by_path
async def test_ignored_fields_change_nothing(client, backend, spec):
    ignored = dict.fromkeys(spec.request.ignored, "x")
    for body in (VALID[spec.path], {**VALID[spec.path], **ignored}):
        assert (await send(client, spec.path, body)).status_code == 200
    half = len(backend.calls) // 2
    assert backend.calls[:half] == backend.calls[half:]


NAMES = st.sampled_from(sorted({n for spec in WITH_BODY for n in fields_of(spec.request)}))


@given(spec=st.sampled_from(WITH_BODY), body=VALUES)
async def test_any_json_is_answered_without_a_server_error(shared, spec, body):
    assert (await send(shared, spec.path, body)).status_code < 500


@given(spec=st.sampled_from(WITH_BODY), fields=st.dictionaries(NAMES, VALUES | TEXT, max_size=4))
async def test_any_values_are_answered_without_a_server_error(shared, spec, fields):
    body = VALID[spec.path]
    for name, value in fields.items():
        body = with_field(body, name, value)
    assert (await send(shared, spec.path, body)).status_code < 500
