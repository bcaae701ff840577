"""The clients that people use, against the running service."""

from __future__ import annotations

import base64
from collections.abc import Callable

import cohere
import numpy as np
import ollama
import openai
import pytest
from huggingface_hub import InferenceClient
from langchain_openai import OpenAIEmbeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

from embedfleet import AsyncClient, Bounds, Client, SpaceMismatch
from testing.running import API_KEY, RunningService

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["A cat sits on the mat.", "Interest rates were raised again.", "日本語"]


@pytest.fixture
def client(service: RunningService) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=API_KEY, max_retries=0)


def test_openai_takes_a_text(client):
    answer = client.embeddings.create(model=MODEL, input=TEXTS[0])
    assert answer.model == MODEL
    assert len(answer.data) == 1
    assert len(answer.data[0].embedding) == 384
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 9


def test_openai_takes_a_list_in_order(client):
    together = client.embeddings.create(model=MODEL, input=TEXTS).data
    alone = [client.embeddings.create(model=MODEL, input=t).data[0].embedding for t in TEXTS]
    assert [item.index for item in together] == [0, 1, 2]
    for item, vector in zip(together, alone, strict=True):
        assert np.dot(item.embedding, vector) > 0.9995


def test_openai_float_and_base64_are_the_same_numbers(client):
    as_float = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float").data
    as_base64 = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="base64").data
    for one, other in zip(as_float, as_base64, strict=True):
        decoded = np.frombuffer(base64.b64decode(other.embedding), "<f4")
        assert np.array_equal(np.float32(one.embedding), decoded)


def test_openai_dimensions(client):
    assert len(client.embeddings.create(model=MODEL, input="x", dimensions=384).data) == 1
    with pytest.raises(openai.BadRequestError, match="384") as refused:
        client.embeddings.create(model=MODEL, input="x", dimensions=100)
    assert refused.value.param == "dimensions"


def test_openai_sees_the_errors_it_knows(service, client):
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.embeddings.create(model="gpt-4", input="x")
    stranger = openai.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.embeddings.create(model=MODEL, input="x")


def test_openai_lists_models(client):
    assert MODEL in [model.id for model in client.models.list()]


def _langchain(service: RunningService, **options) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        model=MODEL, base_url=f"{service.url}/v1", api_key=API_KEY, max_retries=0, **options
    )


def test_langchain_works_with_its_token_ids_off(service):
    embeddings = _langchain(service, check_embedding_ctx_length=False)
    vectors = np.array(embeddings.embed_documents(TEXTS))
    assert vectors.shape == (3, 384)
    assert np.dot(vectors[0], embeddings.embed_query(TEXTS[0])) > 0.9995


def test_langchain_with_foreign_token_ids_is_told_what_to_set(service):
    # by default LangChain sends ids of OpenAI's tokenizer, whose file is a download
    body = {"model": MODEL, "input": [[32, 8415, 23082, 389, 279, 5634, 13]]}
    with service.client() as http:
        answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 400
    assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]


class TestLangchainStandard(EmbeddingsIntegrationTests):
    """LangChain's own test class."""

    @pytest.fixture(autouse=True)
    def _service(self, service: RunningService) -> None:
        self._url = service.url

    @property
    def embeddings_class(self) -> type[OpenAIEmbeddings]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict:
        return {
            "model": MODEL,
            "base_url": f"{self._url}/v1",
            "api_key": API_KEY,
            "check_embedding_ctx_length": False,
        }


def test_llama_index(service):
    embedding = OpenAILikeEmbedding(
        model_name=MODEL, api_base=f"{service.url}/v1", api_key=API_KEY, max_retries=0
    )
    vectors = np.array(embedding.get_text_embedding_batch(TEXTS))
    assert vectors.shape == (3, 384)
    assert np.dot(vectors[1], embedding.get_query_embedding(TEXTS[1])) > 0.9995


async def test_our_own_clients(service):
    texts = [f"{text} {n}" for n in range(40) for text in TEXTS]
    few = Bounds(max_texts=16)
    with Client(service.url, API_KEY, bounds=few) as client:
        split = client.embed(texts, model="hashed")
        with pytest.raises(SpaceMismatch):
            client.embed(TEXTS, model=MODEL)
        ranking = client.rerank("a pet at home", TEXTS, model=MODEL, top_n=1)
    async with AsyncClient(service.url, API_KEY, space=split.space, bounds=few) as client:
        again = await client.embed(texts, model="hashed")
    with Client(service.url, API_KEY) as client:
        whole = client.embed(texts, model="hashed")
    assert whole.vectors.shape == (120, 384)
    np.testing.assert_array_equal(split.vectors, whole.vectors)
    np.testing.assert_array_equal(again.vectors, whole.vectors)
    assert split.space == again.space == whole.space
    assert split.tokens == whole.tokens
    assert [document.index for document in ranking.documents] == [0]


# what text-embeddings-inference answers for "test" with MiniLM, cut to 128 dimensions, of which the
# first stand here (its repository: router/tests/snapshots/test_http_embed__mrl_embeddings_single.snap)
TEI_SNAPSHOT = [
    *(0.020964134, 0.04565805, -0.066505864, 0.10739273),
    *(-0.013054413, -0.07467599, 0.13989426, 0.06780755),
]


def by_huggingface_hub(url: str) -> list[float]:
    return InferenceClient(model=url, token=API_KEY).feature_extraction("test")[0]


def by_llama_index(url: str) -> list[float]:
    embedding = TextEmbeddingsInference(model_name=MODEL, base_url=url, auth_token=API_KEY)
    return embedding.get_text_embedding("test")


def by_cohere(url: str) -> list[float]:
    client = cohere.ClientV2(base_url=url, api_key=API_KEY)
    answer = client.embed(
        model=MODEL, texts=["test"], input_type="search_document", embedding_types=["float"]
    )
    return answer.embeddings.float_[0]


def by_ollama(url: str) -> list[float]:
    client = ollama.Client(host=url, headers={"authorization": f"Bearer {API_KEY}"})
    return client.embed(model=MODEL, input="test").embeddings[0]


@pytest.mark.long  # tests/api/compat has the same clients, without Ray
@pytest.mark.parametrize(
    "vector_of_test", [by_huggingface_hub, by_llama_index, by_cohere, by_ollama]
)
def test_clients_of_other_servers_get_the_vectors_of_text_embeddings_inference(
    service, vector_of_test: Callable[[str], list[float]]
):
    vector = np.array(vector_of_test(service.url))
    assert vector.shape == (384,)
    cut = vector[:128] / np.linalg.norm(vector[:128])
    assert cut[: len(TEI_SNAPSHOT)] == pytest.approx(TEI_SNAPSHOT, abs=0.005)


def test_info_describes_the_model_that_answers_clients_without_one(service):
    with service.client() as http:
        info = http.get("/info").json()
    assert info["model_id"] == f"sentence-transformers/{MODEL}"
    assert info["max_input_length"] == 256
