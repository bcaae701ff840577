"""The E5 models of intfloat, whose prefixes stand on their cards and not in their files.

Each card: "Each input text should start with "query: " or "passage: "", average pooling, normalised, 512
tokens at most, MIT.
"""

from __future__ import annotations

from dataclasses import replace

from deployments.core.models.catalog.languages import ENGLISH, XLM_R
from deployments.core.models.catalog.table import shared, table
from deployments.core.models.published import MULTILINGUAL_E5, WEB_SEARCH
from deployments.core.models.spec import Pooling, Prompts

_ENGLISH = replace(
    shared("bert", Pooling.MEAN, 512, ENGLISH, "mit"),
    prompts=Prompts(query="query: ", document="passage: "),
)
_MULTILINGUAL = replace(_ENGLISH, backbone="xlm-roberta", languages=XLM_R)
_INSTRUCT = replace(
    _MULTILINGUAL,
    prompts=Prompts(
        query_instruction="Instruct: {instruction}\nQuery: ", default_instruction=WEB_SEARCH
    ),
    published_example=MULTILINGUAL_E5,
)

# fmt: off
MODELS = (
    *table("intfloat", _ENGLISH,
      ("e5-small", "e272f3049e853b47cb5ca3952268c6662abda68f", 384, 33.4),
      ("e5-base", "b533fe4636f4a2507c08ddab40644d20b0006d6a", 768, 109.5),
      ("e5-large", "4dc6d853a804b9c8886ede6dda8a073b7dc08a81", 1024, 335.1),
      ("e5-small-v2", "ffb93f3bd4047442299a41ebb6fa998a38507c52", 384, 33.4),
      ("e5-base-v2", "1c644c92ad3ba1efdad3f1451a637716616a20e8", 768, 109.5),
      ("e5-large-v2", "b322e09026e4ea05f42beadf4d661fb4e101d311", 1024, 335.1)),
    # a BERT with XLM-R's tokenizer
    *table("intfloat", replace(_MULTILINGUAL, backbone="bert"),
      ("multilingual-e5-small", "fd1525a9fd15316a2d503bf26ab031a61d056e98", 384, 117.7)),
    *table("intfloat", _MULTILINGUAL,
      ("multilingual-e5-base", "d13f1b27baf31030b7fd040960d60d909913633f", 768, 278.0),
      ("multilingual-e5-large", "ab10c1a7f42e74530fe7ae5be82e6d4f11a719eb", 1024, 559.9)),
    *table("intfloat", _INSTRUCT,
      ("multilingual-e5-large-instruct", "baa7be480a7de1539afce709c8f13f833a510e0a", 1024, 559.9)),
)
