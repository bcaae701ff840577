"""BAAI's BGE models, whose query instructions stand in their model list and not in their files.

https://github.com/FlagOpen/FlagEmbedding, README.md and research/baai_general_embedding/README.md: the
hidden state of `[CLS]`, normalised; an instruction in front of queries only; bge-m3 needs none.
"""

from __future__ import annotations

from dataclasses import replace

from deployments.core.models.catalog.languages import CHINESE, ENGLISH, XLM_R
from deployments.core.models.catalog.table import shared, table
from deployments.core.models.published import BGE_M3
from deployments.core.models.spec import Pooling, Prompts

_ENGLISH = replace(
    shared("bert", Pooling.CLS, 512, ENGLISH, "mit"),
    prompts=Prompts(query="Represent this sentence for searching relevant passages: "),
)
_CHINESE = replace(
    _ENGLISH, languages=CHINESE, prompts=Prompts(query="为这个句子生成表示以用于检索相关文章：")
)
_M3 = replace(
    shared("xlm-roberta", Pooling.CLS, 8_192, XLM_R, "mit"),
    published_example=BGE_M3,
)

# fmt: off
MODELS = (
    *table("BAAI", _ENGLISH,
      ("bge-small-en-v1.5", "5c38ec7c405ec4b44b94cc5a9bb96e735b38267a", 384, 33.4),
      ("bge-base-en-v1.5", "a5beb1e3e68b9ab74eb54cfd186867f64f240e1a", 768, 109.5),
      ("bge-large-en-v1.5", "d4aa6901d3a41ba39fb536a557fa166f842b0e09", 1024, 335.1)),
    *table("BAAI", _CHINESE,
      ("bge-small-zh-v1.5", "7999e1d3359715c523056ef9478215996d62a620", 512, 24.0),
      ("bge-base-zh-v1.5", "f03589ceff5aac7111bd60cfc7d497ca17ecac65", 768, 102.3),
      ("bge-large-zh-v1.5", "79e7739b6ab944e86d6171e44d24c997fc1e0116", 1024, 325.5)),
    *table("BAAI", _M3,
      ("bge-m3", "5617a9f61b028005a4858fdac845db406aefb181", 1024, 567.8)),
)
