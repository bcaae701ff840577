"""A reranker's way from texts to scores: tokenized as in a router, framed, computed by a replica."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from deployments.client.preprocessing import load_preprocessor
from deployments.config.schema import Limits, ModelConfig
from deployments.core.batch import Encoded
from deployments.core.lane import Lane
from deployments.core.models.space import space_id
from deployments.core.models.tokenizer import Tokenized
from deployments.core.request import Embeddings, EncodeRequest, Scoring
from deployments.replica.deployment import Encoder
from deployments.wire import frames
from deployments.wire.calls import Terms
from deployments.wire.frames import CallFrame, Frame, FrameReader
from testing.docstrings import docstrings
from testing.models.rerankers import save_reranker

QUERY = "how does a parser read its input"
DOCUMENTS = (*docstrings(10, longest_words=80), "x")


def only(data: bytes) -> Frame:
    (frame,) = FrameReader().feed(data)
    return frame


async def served(
    folder: Path, request: EncodeRequest
) -> tuple[Tokenized, Encoded, Embeddings, Encoder]:
    """Sends a request's pairs through frames to a replica, and finishes its answer."""
    config = ModelConfig(name="own", path=str(folder), dtype="float32")
    replica = Encoder(config, Limits())
    preprocessor = load_preprocessor(config)
    tokenized = await preprocessor.tokenized(request)
    terms = Terms(space_id(preprocessor.spec))
    call = frames.call(1, CallFrame(tokenized.batch, Lane.ONLINE, 60.0, terms))
    answer = await replica.answer(frames.read_call(only(call).body))
    assert isinstance(answer, Encoded), answer
    encoded, _ = frames.read_answer(only(frames.answer(1, answer, {})).body)
    return tokenized, encoded, await preprocessor.finished(request, tokenized, [encoded]), replica


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("base", ["bert", "xlm-roberta"])
async def test_scores_are_those_of_sentence_transformers(tmp_path: Path, base: str) -> None:
    folder = save_reranker(tmp_path / "model", base)
    request = EncodeRequest(DOCUMENTS, truncate=True, scoring=Scoring(QUERY))
    _, _, actual, replica = await served(folder, request)
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    expected = np.array([model.predict([(QUERY, text)])[0] for text in DOCUMENTS])
    np.testing.assert_allclose(actual.vectors[:, 0], expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.01, "all pairs score alike"
    assert actual.truncated
    assert replica.said().network == "fast"


async def test_a_long_document_has_the_score_of_its_best_chunk(tmp_path: Path) -> None:
    folder = save_reranker(tmp_path / "model")
    documents = ("short", " ".join(DOCUMENTS), "x")
    request = EncodeRequest(documents, scoring=Scoring(QUERY, chunk=True, raw=True))
    tokenized, encoded, actual, _ = await served(folder, request)
    owners = np.array(tokenized.owners)
    assert owners.tolist() == [0, *[1] * (len(owners) - 2), 2]
    assert len(owners) > 4
    best = [encoded.vectors[owners == row].max() for row in range(3)]
    np.testing.assert_array_equal(actual.vectors[:, 0], best)
    assert actual.truncated == ()
