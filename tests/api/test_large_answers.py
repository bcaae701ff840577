"""Large answers are computed and written in a thread, so that other requests get the event loop."""

from __future__ import annotations

import base64
import threading

import numpy as np
import pytest

from deployments.api import responses, scoring
from deployments.core.vectors import INLINE_NUMBERS
from tests.api.calls import EMBEDDINGS, SIMILARITY, ok, send

HERE = threading.current_thread()
INLINE_ANSWER = responses._INLINE_NUMBERS


@pytest.fixture
def wide(backend):
    """Sets how many numbers each vector holds: 0, 1, 2 and so on, from the first text to the last."""

    def set_to(dimension):
        def vectors(spec, request):
            rows = len(request.texts)
            return np.arange(rows * dimension, dtype=np.float32).reshape(rows, dimension)

        backend.vectors = vectors

    return set_to


def threads_of(monkeypatch, module, name):
    """Returns a list that collects the thread and the first argument of each call of a function."""
    calls, original = [], getattr(module, name)

    def watched(first, *rest):
        calls.append((threading.current_thread(), first))
        return original(first, *rest)

    monkeypatch.setattr(module, name, watched)
    return calls


@pytest.mark.parametrize(("more", "inline"), [(0, True), (1, False)])
@pytest.mark.parametrize("encoding_format", ["float", "base64"])
async def test_embeddings(client, wide, monkeypatch, more, inline, encoding_format):
    wide(INLINE_ANSWER // 32 + more)
    calls = threads_of(monkeypatch, responses, "dump")
    body = {"input": ["a"] * 32, "encoding_format": encoding_format}
    answer = ok(await send(client, EMBEDDINGS, body))
    assert all((thread is HERE) == inline for thread, _ in calls)
    rows = [item["embedding"] for item in answer["data"]]
    if encoding_format == "base64":
        rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    np.testing.assert_array_equal(np.concatenate(rows), np.arange(INLINE_ANSWER + 32 * more))
    assert (answer["object"], answer["model"]) == ("list", "plain")


@pytest.mark.parametrize(("more", "inline"), [(0, True), (1, False)])
async def test_vectors_beside_their_cosines(client, wide, monkeypatch, more, inline):
    dimension = (INLINE_ANSWER - 2 * 8) // (2 + 8) + more
    wide(dimension)
    calls = threads_of(monkeypatch, responses, "dump")
    body = {"query": ["a"] * 2, "documents": ["b"] * 8, "return_embeddings": True}
    answer = ok(await send(client, SIMILARITY, body))
    assert all((thread is HERE) == inline for thread, _ in calls)
    for side, rows in (("query", 2), ("document", 8)):
        vectors = np.concatenate(answer[f"{side}_embeddings"])
        np.testing.assert_array_equal(vectors, np.arange(rows * dimension))


@pytest.mark.parametrize(("more", "inline"), [(0, True), (1, False)])
async def test_cosines(client, wide, monkeypatch, more, inline):
    wide(INLINE_NUMBERS // 6 + more)
    calls = threads_of(monkeypatch, scoring, "normalized")
    answer = ok(await send(client, SIMILARITY, {"query": ["a"] * 2, "documents": ["b"] * 4}))
    assert [thread is HERE for thread, _ in calls] == [inline] * 2
    assert np.shape(answer["scores"]) == (2, 4)


async def test_vectors_are_written_a_few_at_a_time(client, wide, monkeypatch):
    wide(4_096)
    calls = threads_of(monkeypatch, responses, "dump")
    answer = ok(await send(client, EMBEDDINGS, {"input": ["a"] * 40}))
    assert [item["index"] for item in answer["data"]] == list(range(40))
    sizes = [len(part) for _, part in calls if isinstance(part, list)]
    assert (sum(sizes), max(sizes)) == (40, 16)
