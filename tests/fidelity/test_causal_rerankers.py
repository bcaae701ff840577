"""Causal rerankers ask for yes or no, as the example of Qwen3-Reranker does."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from deployments.client.preprocessing import Preprocessor
from deployments.core.checking.verdict import Engines, checked_engine
from deployments.core.engine.engine import TorchEngine
from deployments.core.engine.interface import Network
from deployments.core.errors import ContextLengthExceeded, InvalidRequest, UnsupportedModel
from deployments.core.models.catalog import CATALOG
from deployments.core.models.description import describe
from deployments.core.models.loading import ModelFiles
from deployments.core.models.spec import Question
from deployments.core.request import EncodeRequest, Scoring
from testing.docstrings import docstrings
from testing.models.architectures import save_backbone
from testing.models.rerankers import without_sentence_transformers

QUERY = "how does a parser read its input"
DOCUMENTS = (*docstrings(8, longest_words=60), "x", "yes and no " * 60, "日本語 text")
LIMIT = 200
CARD = CATALOG["Qwen3-Reranker-0.6B"]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("EMBEDFLEET_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> ModelFiles:
    """A tiny Qwen3 with a language model's head, with the question of the real one's card."""
    folder: Path = save_backbone(tmp_path_factory.mktemp("causal"), "qwen3")
    without_sentence_transformers(folder)
    vocabulary = _teach(folder / "tokenizer.json", ["yes", "no"])
    config = AutoConfig.from_pretrained(folder, vocab_size=vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return ModelFiles(replace(CARD, name="own", max_tokens=LIMIT), folder)


def _teach(file: Path, words: list[str]) -> int:
    """Adds words to a tokenizer; returns the size of its vocabulary."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_tokens(words)
    tokenizer.save(str(file))
    size: int = tokenizer.get_vocab_size()
    return size


@torch.no_grad()
def expected(files: ModelFiles, instruction: str) -> tuple[list[list[int]], np.ndarray]:
    """Ids and logits by transformers alone, each pair by itself."""
    tokenizer = AutoTokenizer.from_pretrained(files.folder)
    model = AutoModelForCausalLM.from_pretrained(files.folder, dtype=torch.float32).eval()
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    before = tokenizer.encode(CARD.question.before, add_special_tokens=False)
    after = tokenizer.encode(CARD.question.after, add_special_tokens=False)
    ids, logits = [], []
    for document in DOCUMENTS:
        text = f"<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {document}"
        content = tokenizer.encode(text, add_special_tokens=False)
        content = content[: LIMIT - len(before) - len(after)]
        ids.append([*before, *content, *after])
        last = model(torch.tensor([ids[-1]])).logits[0, -1]
        logits.append([float(last[yes] - last[no])])
    return ids, np.array(logits)


@pytest.mark.parametrize("network", [Network.FAST, Network.GENERAL])
@pytest.mark.parametrize("instruction", [None, "Find the function"])
def test_scores_are_those_of_the_cards_example(files, network, instruction):
    description = describe(files.spec, files.folder)
    preprocessor = Preprocessor(description.spec, description.fast_tokenizer())
    engine = TorchEngine(description.spec, files.folder, "cpu", "float32", network=network)
    request = EncodeRequest(
        DOCUMENTS, instruction=instruction, truncate=True, scoring=Scoring(QUERY)
    )
    tokenized = asyncio.run(preprocessor.tokenized(request))
    ids, logits = expected(files, instruction or CARD.prompts.default_instruction)
    batch = tokenized.batch
    assert [batch.text(row).tolist() for row in range(len(batch))] == ids
    assert DOCUMENTS.index("yes and no " * 60) in tokenized.truncated
    assert logits.std() > 0.01, "all pairs score alike"
    np.testing.assert_allclose(engine.forward(batch), logits, rtol=0, atol=1e-5)
    alone = [engine.forward(batch.slice(row, row + 1)) for row in range(len(batch))]
    np.testing.assert_allclose(np.concatenate(alone), logits, rtol=0, atol=1e-5)


def test_it_is_compared_as_it_loads(files):
    description = describe(files.spec, files.folder)
    engine, _ = checked_engine(Engines(description, files, "cpu", "float32"))
    assert engine.network is Network.FAST
    wrong = replace(description, spec=replace(description.spec, answer_tokens=(7, 8)))
    engine, verdict = checked_engine(Engines(wrong, files, "cpu", "float32"))
    assert engine.network is Network.GENERAL
    assert "logit" in verdict.why_general


def test_what_it_does_not_do_is_refused(files):
    description = describe(files.spec, files.folder)
    preprocessor = Preprocessor(description.spec, description.fast_tokenizer())
    chunked = EncodeRequest(DOCUMENTS, scoring=Scoring(QUERY, chunk=True))
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(preprocessor.tokenized(chunked))
    assert refused.value.param == "chunk"
    with pytest.raises(ContextLengthExceeded):
        asyncio.run(preprocessor.tokenized(EncodeRequest(DOCUMENTS, scoring=Scoring(QUERY))))


def test_a_tokenizer_without_its_answers_is_refused(files):
    spec = replace(files.spec, question=Question("a", "b", yes="unheard-of"))
    with pytest.raises(UnsupportedModel, match="unheard-of"):
        describe(spec, files.folder)
