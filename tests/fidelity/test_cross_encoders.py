"""Rerankers give the logits of sentence-transformers' CrossEncoder, alone and among others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, AutoModelForCausalLM

from deployments.client.preprocessing import Preprocessor
from deployments.core.batch import TokenBatch, Vectors
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from deployments.core.errors import ModelUnavailable
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from deployments.core.models.spec import Kind, Role, Truncation
from deployments.core.request import EncodeRequest, Scoring
from testing.docstrings import docstrings
from testing.models.architectures import save_backbone
from testing.models.rerankers import save_reranker, without_sentence_transformers
from tests.fidelity.token_ids import spec_of, with_prompts

Pair = tuple[str, str]
Save = Callable[[Path], Path]

FAST: dict[str, Save] = {
    **{
        name: lambda folder, base=name: save_reranker(folder, base)
        for name in ("bert", "xlm-roberta", "distilbert")
    },
    **{
        name: lambda folder, base=name: save_reranker(folder, lambda f: save_backbone(f, base))
        for name in ("mpnet", "modernbert")
    },
    "gte": lambda folder: save_reranker(
        folder, lambda f: save_backbone(f, "gte"), type_vocab_size=2
    ),
    "modernbert that averages": lambda folder: save_reranker(
        folder, lambda f: save_backbone(f, "modernbert"), classifier_pooling="mean"
    ),
}
GENERAL: dict[str, Save] = {"electra": lambda folder: save_reranker(folder, "electra")}
QUERY = "how does a parser read its input"
DOCUMENTS = [*docstrings(12, longest_words=90), "x", "yes and no " * 60, "日本語 text", "a"]
LONG_QUERY = "how does it read " * 9


def cross_encoder(folder: Path) -> CrossEncoder:
    return CrossEncoder(str(folder), device="cpu", local_files_only=True)


def expected(model: CrossEncoder, pairs: Sequence[Pair]) -> Vectors:
    """The logits, each pair computed alone."""
    identity = torch.nn.Identity()
    return np.array([[model.predict([pair], activation_fn=identity)[0]] for pair in pairs])


def tokenized(preprocessor: Preprocessor, query: str, truncation: Truncation) -> TokenBatch:
    scoring = Scoring(query, truncation)
    request = EncodeRequest(tuple(DOCUMENTS), truncate=True, scoring=scoring)
    return asyncio.run(preprocessor.tokenized(request)).batch


@pytest.mark.parametrize("name", [*FAST, *GENERAL])
def test_scores_are_those_of_sentence_transformers(tmp_path, name):
    folder = (FAST | GENERAL)[name](tmp_path)
    files = find_model("own", str(folder))
    description = describe(files.spec, files.folder)
    preprocessor = Preprocessor(description.spec, description.fast_tokenizer())
    engine = TorchEngine(description.spec, files.folder, "cpu", "float32")
    assert engine.network is (Network.FAST if name in FAST else Network.GENERAL), engine.why_general
    model = cross_encoder(folder)
    for query in (QUERY, LONG_QUERY):
        pairs = [(query, document) for document in DOCUMENTS]
        batch = tokenized(preprocessor, query, Truncation.LONGEST_FIRST)
        ids = [model.preprocess([pair])["input_ids"][0].tolist() for pair in pairs]
        assert [batch.text(row).tolist() for row in range(len(batch))] == ids
        logits, wanted = engine.forward(batch), expected(model, pairs)
        assert wanted.std() > 0.01, "all pairs score alike"
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5)
        alone = [engine.forward(batch.slice(row, row + 1)) for row in range(len(batch))]
        np.testing.assert_allclose(np.concatenate(alone), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("network", [Network.FAST, Network.GENERAL])
def test_the_first_text_ends_where_the_batch_says(tmp_path, network):
    folder = save_reranker(tmp_path, "bert")
    files = find_model("own", str(folder))
    description = describe(files.spec, files.folder)
    preprocessor = Preprocessor(description.spec, description.fast_tokenizer())
    engine = TorchEngine(description.spec, folder, "cpu", "float32", network=network)
    assert engine.wants_prompts
    batch = tokenized(preprocessor, QUERY, Truncation.LONGEST_FIRST)
    others = with_prompts(batch, [Role.DOCUMENT] * len(batch), batch.lengths.tolist())
    assert np.abs(engine.forward(others) - engine.forward(batch)).max() > 0.01
    # as if the tokenizer gave both texts of a pair the same type
    without_types = replace(batch, prompts=None)
    assert np.abs(engine.forward(without_types) - engine.forward(batch)).max() > 0.01


def test_a_causal_reranker_scores_by_yes_and_no(tmp_path):
    save_backbone(tmp_path, "qwen3")
    without_sentence_transformers(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(tmp_path)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = cross_encoder(tmp_path)
    pairs = [(QUERY, document) for document in DOCUMENTS]
    ids = [model.preprocess([pair])["input_ids"][0].tolist() for pair in pairs]
    spec = spec_of(tmp_path, "qwen3", dimension=1, kind=Kind.RERANKER)
    engine = TorchEngine(spec, tmp_path, "cpu", "float32")
    logits = engine.forward(TokenBatch.from_lists(ids))
    np.testing.assert_allclose(logits, expected(model, pairs), rtol=1e-4, atol=1e-5)


def test_a_model_without_a_head_is_refused(tmp_path):
    folder = save_reranker(tmp_path, "bert")
    weights = folder / "model.safetensors"
    from safetensors.torch import load_file, save_file

    kept = {k: v for k, v in load_file(weights).items() if not k.startswith("classifier")}
    save_file(kept, weights, {"format": "pt"})
    spec = spec_of(folder, "bert", dimension=1, kind=Kind.RERANKER)
    for network in (Network.AUTO, Network.GENERAL):
        with pytest.raises(ModelUnavailable, match=r"lack .*classifier"):
            TorchEngine(spec, folder, "cpu", network=network)
