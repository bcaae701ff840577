"""Encoders for retrieval of other publishers: Snowflake, Mixedbread, Nomic, Alibaba, IBM.

Prompts, pooling and limits: the cards of one model of each table.
"""

from __future__ import annotations

from dataclasses import replace

from deployments.core.models.catalog.languages import ARCTIC, ENGLISH, GRANITE, GRANITE_R2, GTE
from deployments.core.models.catalog.table import shared, table
from deployments.core.models.published import GTE_MODERNBERT
from deployments.core.models.spec import Pooling, Prompts

_CLS = shared("bert", Pooling.CLS, 512, ENGLISH, "apache-2.0")
_SEARCH = Prompts(query="Represent this sentence for searching relevant passages: ")

_ARCTIC = replace(_CLS, prompts=_SEARCH)
_ARCTIC_V2 = replace(
    _CLS,
    max_tokens=8_192,
    languages=ARCTIC,
    prompts=Prompts(query="query: "),
    truncatable_dimensions=(256,),
)
# Its Matryoshka recipe has a layer normalisation before the cut, so no smaller dimensions are stated.
_NOMIC = replace(
    shared("nomic_bert", Pooling.MEAN, 8_192, ENGLISH, "apache-2.0"),
    prompts=Prompts(query="search_query: ", document="search_document: "),
)
_GTE_MODERNBERT = replace(
    _CLS, backbone="modernbert", max_tokens=8_192, published_example=GTE_MODERNBERT
)
_GTE = replace(_CLS, backbone="gte", max_tokens=8_192)
_GRANITE = replace(_CLS, backbone="roberta")
_GRANITE_MULTILINGUAL = replace(_CLS, backbone="xlm-roberta", languages=GRANITE)
_GRANITE_R2 = replace(_CLS, backbone="modernbert", max_tokens=8_192)

# fmt: off
MODELS = (
    *table("Snowflake", _ARCTIC,
      ("snowflake-arctic-embed-xs", "742da4f66e1823b5b4dbe6c320a1375a1fd85f9e", 384, 22.7),
      ("snowflake-arctic-embed-s", "d3c1d2d433dd0fdc8e9ca01331a5f225639e798f", 384, 33.4),
      ("snowflake-arctic-embed-m", "cc17beacbac32366782584c8752220405a0f3f40", 768, 109.5),
      ("snowflake-arctic-embed-l", "9a9e5834d2e89cdd8bb72b64111dde496e4fe78c", 1024, 335.1)),
    *table("Snowflake", replace(_ARCTIC, truncatable_dimensions=(256,)),
      ("snowflake-arctic-embed-m-v1.5", "97eab2e17fcb7ccb8bb94d6e547898fa1a6a0f47", 768, 109.5)),
    *table("Snowflake", replace(_ARCTIC_V2, backbone="gte"),
      ("snowflake-arctic-embed-m-v2.0", "f2a7d59d80dfda5b1d14f096f3ce88bb6bf9ebdc", 768, 305.4)),
    *table("Snowflake", replace(_ARCTIC_V2, backbone="xlm-roberta"),
      ("snowflake-arctic-embed-l-v2.0", "edc2df7b6c25794b340229ca082e7c78782e6374", 1024, 567.8)),

    *table("mixedbread-ai", replace(_ARCTIC, truncatable_dimensions=(512,)),
      ("mxbai-embed-large-v1", "990580e27d329c7408b3741ecff85876e128e203", 1024, 335.1)),

    *table("nomic-ai", _NOMIC,
      ("nomic-embed-text-v1.5", "b0753ae76394dd36bcfb912a46018088bca48be0", 768, 136.7)),

    *table("Alibaba-NLP", _GTE_MODERNBERT,
      ("gte-modernbert-base", "7ca8b4ca700621b67618669f5378fe5f5820b8e4", 768, 149.0)),
    *table("Alibaba-NLP", _GTE,
      ("gte-base-en-v1.5", "a829fd0e060bb84554da0dfd354d0de0f7712b7f", 768, 136.8)),
    *table("Alibaba-NLP", replace(_GTE, languages=GTE),
      ("gte-multilingual-base", "ca1791e0bcc104f6db161f27de1340241b13c5a4", 768, 305.4)),

    *table("ibm-granite", _GRANITE,
      ("granite-embedding-30m-english", "eddbb57470f896b5f8e2bfcb823d8f0e2d2024a5", 384, 30.3),
      ("granite-embedding-125m-english", "e48d3a5b47eaa18e3fe07d4676e187fd80f32730", 768, 124.6)),
    *table("ibm-granite", _GRANITE_MULTILINGUAL,
      ("granite-embedding-107m-multilingual", "47db56afe692f731540413c67dd818ff492277e7", 384, 107.0),
      ("granite-embedding-278m-multilingual", "84e3546b88b0cb69f8078608a1df558020bcbf1f", 768, 278.0)),
    *table("ibm-granite", _GRANITE_R2,
      ("granite-embedding-small-english-r2", "54a8d2616a0844355a5164432d3f6dafb37b17a3", 384, 47.7),
      ("granite-embedding-english-r2", "6e7b8ce0e76270394ac4669ba4bbd7133b60b7f9", 768, 149.0)),
    *table("ibm-granite", replace(_GRANITE_R2, languages=GRANITE_R2),
      ("granite-embedding-97m-multilingual-r2", "c61e626a6255c490879d0af885078b61929d51f6", 384, 97.4)),
    *table("ibm-granite",
      replace(_GRANITE_R2, languages=GRANITE_R2, truncatable_dimensions=(128, 256, 384, 512)),
      ("granite-embedding-311m-multilingual-r2", "dba7b0ee9d789f330fecfb85df57699f9e7d9c42", 768, 311.7)),
)
