"""Rerankers: cross-encoders, whose files say all but languages and licence.

Commits, parameters, limits and licences of cross-encoder, bge-reranker-v2-m3 and mixedbread-ai: MTEB
(``rerankers_custom.py``, ``mixedbread_ai_models.py``). bge-reranker-base and -large:
https://github.com/FlagOpen/FlagEmbedding, research/llm_reranker/README.md (Chinese and English, from
XLM-R; 8,192 tokens for v2-m3, which is bge-m3). gte-reranker-modernbert-base: its card (English, 8,192
tokens, Apache-2.0). Qwen3-Reranker: https://github.com/QwenLM/Qwen3-Embedding,
examples/qwen3_reranker_transformers.py, with the instruction and the limit of its example; commits and
parameters are MTEB's (``qwen3_reranker.py``).
"""

from __future__ import annotations

from dataclasses import replace

from deployments.core.models.catalog.languages import CHINESE, ENGLISH, QWEN3, XLM_R
from deployments.core.models.catalog.table import rerankers, table
from deployments.core.models.published import WEB_SEARCH
from deployments.core.models.spec import Activation, Prompts, Question

_MS_MARCO = replace(rerankers("bert", 512, ENGLISH, "apache-2.0"), activation=Activation.IDENTITY)
_BGE = rerankers("xlm-roberta", 512, (*CHINESE, *ENGLISH), "mit")
_BGE_M3 = rerankers("xlm-roberta", 8_192, XLM_R, "apache-2.0")
_GTE = rerankers("modernbert", 8_192, ENGLISH, "apache-2.0")
_MXBAI = rerankers("deberta-v2", 512, ENGLISH, "apache-2.0")
_QWEN3 = replace(
    rerankers("qwen3", 8_192, QWEN3, "apache-2.0"),
    prompts=Prompts(
        query_instruction="<Instruct>: {instruction}\n<Query>: ",
        document="\n<Document>: ",
        default_instruction=WEB_SEARCH,
    ),
    question=Question(
        before="<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        'and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
        "<|im_start|>user\n",
        after="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
)

# fmt: off
MODELS = (
    *table("cross-encoder", _MS_MARCO,
      ("ms-marco-TinyBERT-L2-v2", "81d1926f67cb8eee2c2be17ca9f793c7c3bd20cc", 1, 4.4),
      ("ms-marco-MiniLM-L2-v2", "1b5cd67b15209f24824c50370e0397743aa9b787", 1, 15.6),
      ("ms-marco-MiniLM-L4-v2", "777b2f369bc1c2f850df8bd367ed1654bda4497b", 1, 19.2),
      ("ms-marco-MiniLM-L6-v2", "c5ee24cb16019beea0893ab7796b1df96625c6b8", 1, 22.7),
      ("ms-marco-MiniLM-L12-v2", "7b0235231ca2674cb8ca8f022859a6eba2b1c968", 1, 33.4)),
    *table("BAAI", _BGE,
      ("bge-reranker-base", "2cfc18c9415c912f9d8155881c133215df768a70", 1, 278.0),
      ("bge-reranker-large", "55611d7bca2a7133960a6d3b71e083071bbfc312", 1, 559.9)),
    *table("BAAI", _BGE_M3,
      ("bge-reranker-v2-m3", "953dc6f6f85a1b2dbfca4c34a2796e7dde08d41e", 1, 567.8)),
    *table("Alibaba-NLP", _GTE,
      ("gte-reranker-modernbert-base", "f7481e6055501a30fb19d090657df9ec1f79ab2c", 1, 149.6)),
    *table("mixedbread-ai", _MXBAI,
      ("mxbai-rerank-xsmall-v1", "b5c6e9da73abc3711f593f705371cdbe9e0fe422", 1, 70.8),
      ("mxbai-rerank-base-v1", "800f24c113213a187e65bde9db00c15a2bb12738", 1, 184.4),
      ("mxbai-rerank-large-v1", "98f655841d5caf0b16eaff79c2b4ca109d920d17", 1, 435.1)),
    *table("Qwen", _QWEN3,
      ("Qwen3-Reranker-0.6B", "6e9e69830b95c52b5fd889b7690dda3329508de3", 1, 595.8),
      ("Qwen3-Reranker-4B", "f16fc5d5d2b9b1d0db8280929242745d79794ef5", 1, 4_021.8),
      ("Qwen3-Reranker-8B", "5fa94080caafeaa45a15d11f969d7978e087a3db", 1, 8_188.5)),
)
