"""Sparse encoders give the weights of sentence-transformers' SparseEncoder, alone and among others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SparseEncoder

from deployments.client.preprocessing import load_preprocessor
from deployments.config.schema import Limits, ModelConfig
from deployments.core.batch import Encoded, Vectors, concatenated
from deployments.core.checking.comparison import (
    expectations,
    token_difference,
    vector_difference,
)
from deployments.core.checking.reference import Reference
from deployments.core.checking.verdict import Engines, checked_engine
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from deployments.core.errors import ModelUnavailable, UnsupportedModel, WrongKind
from deployments.core.lane import Lane
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from deployments.core.models.space import space_id
from deployments.core.models.spec import Role
from deployments.core.request import Embeddings, EncodeRequest
from deployments.core.sparse import SparseVectors
from deployments.replica.deployment import Encoder
from deployments.wire import frames
from deployments.wire.calls import Terms
from deployments.wire.frames import CallFrame, FrameReader
from testing.docstrings import docstrings
from testing.models.sparse_encoders import BASES, save_sparse_encoder

TEXTS = (*docstrings(12, longest_words=90), "x", "yes and no " * 60, "日本語 text", "a")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(tmp_path / "cache"))


def stock(folder: Path) -> SparseEncoder:
    return SparseEncoder(str(folder), device="cpu", local_files_only=True)


def weights(model: SparseEncoder, role: Role = Role.DOCUMENT) -> Vectors:
    """What sentence-transformers gives, each text computed alone."""
    encode = model.encode_query if role is Role.QUERY else model.encode_document
    rows = [encode([text], convert_to_sparse_tensor=False, batch_size=1) for text in TEXTS]
    vectors = torch.cat(rows).numpy()
    assert 0 < np.count_nonzero(vectors) < 0.5 * vectors.size, "not sparse"
    assert np.ptp(vectors, axis=0).max() > 0.1, "all texts are alike"
    return vectors


def agree(vectors: SparseVectors, wanted: Vectors) -> None:
    """Asserts that all weights are those wanted, to 1e-5 of the largest, which is above 1 mostly."""
    atol = 1e-5 * max(1.0, float(wanted.max()))
    np.testing.assert_allclose(vectors.dense(), wanted, rtol=0, atol=atol)


async def served(
    folder: Path, role: Role = Role.DOCUMENT
) -> tuple[Embeddings, SparseVectors, Encoder]:
    """Sends texts through frames to a replica, and returns the answer, finished and as it came."""
    config = ModelConfig(name="own", path=str(folder), dtype="float32")
    replica = Encoder(config, Limits())
    preprocessor = load_preprocessor(config)
    request = EncodeRequest(TEXTS, role, truncate=True, sparse=True)
    tokenized = await preprocessor.tokenized(request)
    terms = Terms(space_id(preprocessor.spec))
    [call] = FrameReader().feed(
        frames.call(1, CallFrame(tokenized.batch, Lane.ONLINE, 60.0, terms))
    )
    answer = await replica.answer(frames.read_call(call.body))
    assert isinstance(answer, Encoded), answer
    [frame] = FrameReader().feed(frames.answer(1, answer, {}))
    encoded, _ = frames.read_answer(frame.body)
    assert isinstance(encoded.vectors, SparseVectors)
    return await preprocessor.finished(request, tokenized, [encoded]), encoded.vectors, replica


@pytest.mark.parametrize("by_task", [False, True], ids=["MLMTransformer", "fill-mask"])
@pytest.mark.parametrize("base", BASES)
def test_weights_are_those_of_sentence_transformers(tmp_path, base, by_task):
    folder = save_sparse_encoder(tmp_path / "model", base, by_task=by_task)
    files = find_model("own", str(folder))
    description = describe(files.spec, files.folder)
    engine = TorchEngine(description.spec, files.folder, "cpu", "float32")
    assert engine.network is Network.GENERAL
    assert engine.pads, "texts of all lengths share a pass, since padding changes none"
    batch = description.fast_tokenizer().tokenize(TEXTS, truncate=True).batch
    model = stock(folder)
    ids = [model.preprocess([text])["input_ids"][0].tolist() for text in TEXTS]
    assert [batch.text(row).tolist() for row in range(len(batch))] == ids
    wanted = weights(model)
    together = engine.forward(batch)
    agree(together, wanted)
    alone = concatenated([engine.forward(batch.slice(n, n + 1)) for n in range(len(batch))])
    agree(alone, wanted)


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_strategy": "sum"},
        {"activation_function": "log1p_relu"},
        {"pooling_strategy": "sum", "activation_function": "log1p_relu"},
    ],
    ids=lambda pooling: "+".join(pooling.values()),
)
async def test_every_pooling_is_as_its_files_say(tmp_path, pooling):
    folder = save_sparse_encoder(tmp_path / "model", pooling=pooling)
    answer, _, _ = await served(folder)
    agree(answer.sparse, weights(stock(folder)))


@pytest.mark.parametrize("role", Role)
async def test_a_served_text_has_the_weights_of_its_role(tmp_path, role):
    folder = save_sparse_encoder(
        tmp_path / "model", prompts={"query": "find: ", "document": "this is read: "}
    )
    answer, sent, replica = await served(folder, role)
    model = stock(folder)
    wanted = weights(model, role)
    agree(answer.sparse, wanted)
    np.testing.assert_array_equal(answer.sparse.dense(), sent.dense())
    for row in answer.sparse.rows():
        assert (np.diff(row.indices.astype(int)) > 0).all()
        assert (row.values > 0).all()
    assert answer.vectors.shape == (len(TEXTS), 0)
    assert answer.truncated
    assert replica.said().compared_with.startswith("sentence-transformers")


async def test_a_sparse_encoder_gives_no_dense_vectors(tmp_path):
    config = ModelConfig(name="own", path=str(save_sparse_encoder(tmp_path / "model")))
    preprocessor = load_preprocessor(config)
    with pytest.raises(WrongKind):
        await preprocessor.tokenized(EncodeRequest(("a text",)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = save_sparse_encoder(
        tmp_path_factory.mktemp("sparse") / "model", prompts={"query": "q: "}
    )
    return find_model("own", str(folder))


@pytest.fixture(scope="module")
def expected(files):
    return expectations(Reference(files, CPU, torch.float32), files.spec)


def test_a_right_one_is_accepted(files, expected):
    description = describe(files.spec, files.folder)
    engine, verdict = checked_engine(Engines(description, files, "cpu", "float32"))
    assert (engine.network, verdict.network) == (Network.GENERAL, Network.GENERAL)
    assert vector_difference(description, engine, "float32", expected) is None


def test_another_prompt_or_limit_is_found(files, expected):
    description = describe(files.spec, files.folder)
    assert token_difference(description, expected) is None
    for changes in ({"max_tokens": 63}, {"prompts": replace(files.spec.prompts, query="")}):
        wrong = replace(description, spec=replace(description.spec, **changes))
        assert token_difference(wrong, expected)


@pytest.mark.parametrize("change", ["one weight", "no entry"])
def test_other_weights_are_found(files, expected, change):
    description = describe(files.spec, files.folder)
    right = TorchEngine(description.spec, files.folder, "cpu", "float32")

    class Wrong:
        """Gives one text's largest weight a little more, or not at all."""

        def forward(self, batch):
            vectors = right.forward(batch).dense()
            place = np.unravel_index(vectors.argmax(), vectors.shape)
            vectors[place] = vectors[place] * 1.01 if change == "one weight" else 0
            return SparseVectors.from_dense(vectors)

    assert vector_difference(description, Wrong(), "float32", expected)


def test_the_fast_path_is_refused(files):
    with pytest.raises(UnsupportedModel, match="fast path"):
        TorchEngine(files.spec, files.folder, "cpu", "float32", network=Network.FAST)


def test_files_of_another_vocabulary_are_refused(files):
    spec = replace(files.spec, dimension=files.spec.dimension + 1)
    with pytest.raises(UnsupportedModel):
        TorchEngine(spec, files.folder, "cpu", "float32")


@pytest.mark.parametrize("by_task", [False, True])
def test_missing_weights_are_refused(tmp_path, by_task):
    folder = save_sparse_encoder(tmp_path / "model", by_task=by_task)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["cls.predictions.transform.dense.weight"]
    save_file(tensors, path, {"format": "pt"})
    files = find_model("own", str(folder))
    with pytest.raises(ModelUnavailable, match="transform"):
        TorchEngine(files.spec, folder, "cpu", "float32")
