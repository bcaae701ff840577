"""The clients of other servers, as they come from PyPI, against a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import cohere
import numpy as np
import ollama
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from deployments.api.auth import ApiKeys
from deployments.core.models.spec import Role
from deployments.core.request import EncodeRequest
from tests.api.calls import app_of
from tests.api.fake_backend import JUDGE, PLAIN, SPECS, FakeBackend, expected
from tests.api.serving import serving

KEY = "secret"
TEXTS = ["a swan", "a goose"]
DOCUMENTS = expected(PLAIN, EncodeRequest(tuple(TEXTS)))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    backend = FakeBackend(specs={**SPECS, JUDGE.name: JUDGE})
    with serving(app_of(backend, keys=ApiKeys([KEY]))) as url:
        yield url


@pytest.mark.parametrize("path", ["", "/embed"])
def test_huggingface_hub_embeds(url, path):
    client = InferenceClient(model=url + path, token=KEY)
    assert np.allclose(client.feature_extraction(TEXTS), DOCUMENTS, atol=1e-6)
    queries = client.feature_extraction(
        TEXTS, prompt_name="query", normalize=True, truncate=True, truncation_direction="right"
    )
    assert np.allclose(queries, expected(PLAIN, EncodeRequest(tuple(TEXTS), Role.QUERY)), atol=1e-6)


def test_huggingface_hub_compares_sentences(url):
    client = InferenceClient(model=f"{url}/similarity", token=KEY)
    assert client.sentence_similarity(TEXTS[0], other_sentences=TEXTS) == pytest.approx(
        DOCUMENTS[0] @ DOCUMENTS.T, abs=1e-6
    )


def test_huggingface_hub_sees_errors(url):
    client = InferenceClient(model=url, token=KEY)
    with pytest.raises(HfHubHTTPError, match="truncation_direction") as refused:
        client.feature_extraction("a", truncation_direction="left")
    assert refused.value.response.status_code == 422


def test_llama_index_embeds(url):
    embedding = TextEmbeddingsInference(model_name=PLAIN.repo, base_url=url, auth_token=KEY)
    assert np.allclose(embedding.get_text_embedding_batch(TEXTS), DOCUMENTS, atol=1e-6)
    assert np.allclose(embedding.get_text_embedding(TEXTS[0]), DOCUMENTS[0], atol=1e-6)


def test_cohere_v2_embeds(url):
    client = cohere.ClientV2(base_url=url, api_key=KEY)
    answer = client.embed(
        model="plain",
        texts=TEXTS,
        input_type="search_document",
        embedding_types=["float", "ubinary"],
        truncate="END",
        output_dimension=8,
    )
    assert np.allclose(answer.embeddings.float_, DOCUMENTS, atol=1e-6)
    assert np.array_equal(answer.embeddings.ubinary, np.packbits(DOCUMENTS > 0, axis=1))
    assert answer.meta.billed_units.input_tokens > 0


def test_cohere_v1_embeds_many_texts_in_batches(url):
    client = cohere.Client(base_url=url, api_key=KEY)
    answer = client.embed(model="plain", texts=TEXTS * 60, input_type="search_document")
    assert np.allclose(answer.embeddings, np.tile(DOCUMENTS, (60, 1)), atol=1e-6)
    by_type = client.embed(model="plain", texts=TEXTS, embedding_types=["int8"])
    assert np.shape(by_type.embeddings.int8) == DOCUMENTS.shape


def test_cohere_sees_errors(url):
    client = cohere.ClientV2(base_url=url, api_key=KEY)
    with pytest.raises(cohere.BadRequestError, match="input_type"):
        client.embed(model="plain", texts=TEXTS, input_type="clustering", embedding_types=["float"])


def test_ollama_embeds(url):
    client = ollama.Client(host=url, headers={"authorization": f"Bearer {KEY}"})
    assert {model.model for model in client.list().models} == set(SPECS)
    answer = client.embed(model="plain", input=TEXTS, truncate=True, options={"num_ctx": 99})
    assert np.allclose(answer.embeddings, DOCUMENTS, atol=1e-6)
    assert answer.prompt_eval_count > 0
    older = client.embeddings(model="plain", prompt=TEXTS[0])
    assert np.allclose(older.embedding, DOCUMENTS[0], atol=1e-6)
    with pytest.raises(ollama.ResponseError, match="no model 'none'") as refused:
        client.embed(model="none", input="a")
    assert refused.value.status_code == 404
