"""Embedding models made from language models: Mistral, Qwen3, Gemma 3.

Prompts, pooling and recommended lengths: the models' cards.
"""

from __future__ import annotations

from dataclasses import replace

from deployments.core.models.catalog.languages import EMBEDDING_GEMMA, ENGLISH, QWEN3
from deployments.core.models.catalog.table import shared, table
from deployments.core.models.published import (
    GEMMA,
    LINQ,
    QWEN3_06B,
    QWEN3_4B,
    QWEN3_8B,
    SFR_2_R,
    SFR_MISTRAL,
    WEB_SEARCH,
    WIKIPEDIA,
)
from deployments.core.models.spec import Pooling, Prompts, SpecialTokens

_INSTRUCT = Prompts(
    query_instruction="Instruct: {instruction}\nQuery: ", default_instruction=WEB_SEARCH
)
_MISTRAL = replace(shared("mistral", Pooling.LAST_TOKEN, 4_096, ENGLISH, "mit"), prompts=_INSTRUCT)
# `<s>` first and `</s>` last. e5-mistral's tokenizer_config.json asks for both, its tokenizer.json
# adds only the first, and transformers 5 obeys the latter
# (https://github.com/embeddings-benchmark/mteb/pull/5237).
_E5_MISTRAL = replace(_MISTRAL, special_tokens=SpecialTokens(first=(1,), last=(2,)))
_LINQ = replace(
    _E5_MISTRAL,
    prompts=replace(_INSTRUCT, default_instruction=WIKIPEDIA),
    licence="cc-by-nc-4.0",
    published_example=LINQ,
)
_SFR = replace(_MISTRAL, licence="cc-by-nc-4.0")
# no space after "Query:"
_QWEN3 = replace(
    shared("qwen3", Pooling.LAST_TOKEN, 32_768, QWEN3, "apache-2.0"),
    prompts=replace(_INSTRUCT, query_instruction="Instruct: {instruction}\nQuery:"),
    truncatable_from=32,
)
_GEMMA = replace(
    shared("gemma3_text", Pooling.MEAN, 2_048, EMBEDDING_GEMMA, "gemma"),
    prompts=Prompts(query="task: search result | query: ", document="title: none | text: "),
    dtypes=("float32", "bfloat16"),  # "activations do not support float16"
    truncatable_dimensions=(128, 256, 512),
    has_further_modules=True,  # two Dense layers between pooling and normalisation
    published_example=GEMMA,
)

# fmt: off
MODELS = (
    *table("intfloat", _E5_MISTRAL,
      ("e5-mistral-7b-instruct", "07163b72af1488142a360786df853f237b1a3ca1", 4096, 7_110.7)),
    *(replace(linq, name=linq.name.lower()) for linq in table("Linq-AI-Research", _LINQ,
      ("Linq-Embed-Mistral", "0c1a0b0589177079acc552433cad51d7c9132379", 4096, 7_110.7))),
    *table("Salesforce", replace(_SFR, published_example=SFR_MISTRAL),
      ("SFR-Embedding-Mistral", "938c560d1c236aa563b2dbdf084f28ab28bccb11", 4096, 7_110.7)),
    *table("Salesforce", replace(_SFR, published_example=SFR_2_R),
      ("SFR-Embedding-2_R", "91762139d94ed4371a9fa31db5551272e0b83818", 4096, 7_110.7)),

    *table("Qwen", replace(_QWEN3, published_example=QWEN3_06B),
      ("Qwen3-Embedding-0.6B", "b22da495047858cce924d27d76261e96be6febc0", 1024, 595.8)),
    *table("Qwen", replace(_QWEN3, published_example=QWEN3_4B),
      ("Qwen3-Embedding-4B", "636cd9bf47d976946cdbb2b0c3ca0cb2f8eea5ff", 2560, 4_021.8)),
    *table("Qwen", replace(_QWEN3, published_example=QWEN3_8B),
      ("Qwen3-Embedding-8B", "4e423935c619ae4df87b646a3ce949610c66241c", 4096, 7_567.3)),

    *table("google", _GEMMA,
      ("embeddinggemma-300m", "64614b0b8b64f0c6c1e52b07e4e9a4e8fe4d2da2", 768, 307.6)),
)
